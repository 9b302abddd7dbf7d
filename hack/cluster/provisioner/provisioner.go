package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// A provisioner makes local volumes: a folder for volumeMode Filesystem, a loop
// device over a sparse file for Block. A folder has no size limit.
type provisioner struct{ run string }

var _ controller.BlockProvisioner = provisioner{}

func (provisioner) SupportsBlock(context.Context) bool { return true }

// volumes is a node's folder of volumes: on the machine, and as the node sees it.
func (p provisioner) volumes(node string) (machine, inNode string) {
	return filepath.Join(p.run, node, "kubelet", "nbde-volumes"), "/var/lib/kubelet/nbde-volumes"
}

func (p provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	node := o.SelectedNodeName
	if node == "" {
		return nil, controller.ProvisioningFinished, errors.New("the StorageClass needs volumeBindingMode WaitForFirstConsumer: a local volume must know its node")
	}
	mode := corev1.PersistentVolumeFilesystem
	if m := o.PVC.Spec.VolumeMode; m != nil {
		mode = *m
	}
	size := o.PVC.Spec.Resources.Requests[corev1.ResourceStorage]
	dir, inNode := p.volumes(node)

	var path string
	var err error
	if mode == corev1.PersistentVolumeBlock {
		path, err = makeBlock(ctx, filepath.Join(dir, o.PVName+".img"), size.Value())
	} else {
		path, err = filepath.Join(inNode, o.PVName), makeFolder(filepath.Join(dir, o.PVName))
	}
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}

	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes:                   o.PVC.Spec.AccessModes,
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: size},
			VolumeMode:                    &mode,
			PersistentVolumeReclaimPolicy: *o.StorageClass.ReclaimPolicy,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity:                  onlyOn(node),
		},
	}, controller.ProvisioningFinished, nil
}

func (p provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	node, err := nodeOf(pv)
	if err != nil {
		return err
	}
	dir, _ := p.volumes(node)
	if err := removeBlock(ctx, filepath.Join(dir, pv.Name+".img")); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(dir, pv.Name))
}

func onlyOn(node string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}},
		}},
	}}
}

// nodeOf undoes onlyOn.
func nodeOf(pv *corev1.PersistentVolume) (string, error) {
	if a := pv.Spec.NodeAffinity; a != nil && a.Required != nil {
		for _, t := range a.Required.NodeSelectorTerms {
			for _, e := range t.MatchExpressions {
				if e.Key == corev1.LabelHostname && len(e.Values) == 1 {
					return e.Values[0], nil
				}
			}
		}
	}
	return "", fmt.Errorf("volume %s names no node", pv.Name)
}
