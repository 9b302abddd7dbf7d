// Command pki writes the certificates, keys and kubeconfigs of a test cluster.
//
//	pki -dir DIR -server https://ADDRESS:6443 -sans NAME,IP,... -nodes n1=IP,...
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("pki: ")
	dir := flag.String("dir", "pki", "folder to write to")
	server := flag.String("server", "", "URL of the API server, for the kubeconfigs")
	sans := flag.String("sans", "", "names and addresses of the API server, separated by commas")
	nodes := flag.String("nodes", "", "NAME=ADDRESS of every node, separated by commas")
	flag.Parse()
	if err := run(folder(*dir), *server, split(*sans), split(*nodes)); err != nil {
		log.Fatal(err)
	}
}

func run(dir folder, server string, sans, nodes []string) error {
	if err := os.MkdirAll(string(dir), 0o700); err != nil {
		return err
	}
	root, err := newCA(dir, "ca")
	if err != nil {
		return err
	}
	// Requests that the API server forwards (aggregation) have their own root,
	// or any client of the cluster could pose as any user there.
	front, err := newCA(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	if err := serviceAccountKey(dir); err != nil {
		return err
	}

	var errs []error
	check := func(_ pair, err error) { errs = append(errs, err) }
	check(root.issue(identity{file: "apiserver", name: "kube-apiserver", sans: sans}))
	check(root.issue(identity{file: "apiserver-kubelet-client", name: "kube-apiserver", group: "system:masters"}))
	check(front.issue(identity{file: "front-proxy-client", name: "front-proxy-client"}))

	users := []identity{
		{file: "admin", name: "kubernetes-admin", group: "system:masters"},
		{file: "controller-manager", name: "system:kube-controller-manager"},
		{file: "scheduler", name: "system:kube-scheduler"},
		{file: "kube-proxy", name: "system:kube-proxy"},
	}
	for _, n := range nodes {
		name, address, ok := strings.Cut(n, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=ADDRESS", n)
		}
		node := identity{file: "kubelet-" + name, name: "system:node:" + name, group: "system:nodes"}
		users = append(users, node)
		node.file, node.sans = "kubelet-server-"+name, []string{name, address}
		check(root.issue(node))
	}
	for _, u := range users {
		errs = append(errs, root.kubeconfig(u, server))
	}
	return errors.Join(errs...)
}

// serviceAccountKey writes the pair that signs and checks service account tokens.
func serviceAccountKey(dir folder) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if _, err := dir.writePEM("sa.pub", "PUBLIC KEY", pub); err != nil {
		return err
	}
	_, err = dir.writeKey("sa.key", key)
	return err
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
