package controller_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"
)

// refusals are what the API server has found wrong with objects of the tests: a line
// for each, of the field without its indexes and the message.
var refusals = struct {
	sync.Mutex
	lines []string
}{}

// remembering is a client that keeps the refusals.
func remembering(c client.WithWatch) client.WithWatch {
	return interceptor.NewClient(c, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return remember(c.Create(ctx, obj, opts...))
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
			return remember(c.Patch(ctx, obj, patch, opts...))
		},
	})
}

var index = regexp.MustCompile(`\[[^]]*\]`)

func remember(err error) error {
	var refused *apierrors.StatusError
	if errors.As(err, &refused) && refused.ErrStatus.Details != nil {
		refusals.Lock()
		defer refusals.Unlock()
		for _, c := range refused.ErrStatus.Details.Causes {
			refusals.lines = append(refusals.lines, index.ReplaceAllString(c.Field, "")+" "+c.Message)
		}
	}
	return err
}

// untestedRules are the rules of the CustomResourceDefinition, as FIELD MESSAGE, for
// which no test has had an object refused.
func untestedRules() ([]string, error) {
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "nbdexport.io_nbdexports.yaml"))
	if err != nil {
		return nil, err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return nil, err
	}
	rules := map[string]string{}
	crd.Spec.Versions[0].Schema.OpenAPIV3Schema.rules("", rules)
	refusals.Lock()
	defer refusals.Unlock()
	for rule, field := range rules {
		message := strings.TrimPrefix(rule, field+" ")
		if slices.ContainsFunc(refusals.lines, func(l string) bool { return strings.HasPrefix(l, field+" ") && strings.Contains(l, message) }) {
			delete(rules, rule)
		}
	}
	return slices.Sorted(maps.Keys(rules)), nil
}

// schema is a schema of a CustomResourceDefinition, as far as it has to do with rules.
type schema struct {
	Rules []struct {
		Message   string `json:"message"`
		FieldPath string `json:"fieldPath"`
	} `json:"x-kubernetes-validations"`
	Properties           map[string]schema `json:"properties"`
	Items                *schema           `json:"items"`
	AdditionalProperties *schema           `json:"additionalProperties"`
}

// rules adds the rules of a schema and of all below it to a map, with their fields.
func (s *schema) rules(path string, to map[string]string) {
	if s == nil {
		return
	}
	for _, r := range s.Rules {
		field := strings.TrimPrefix(path+r.FieldPath, ".")
		to[field+" "+r.Message] = field
	}
	for name, below := range s.Properties {
		below.rules(path+"."+name, to)
	}
	s.Items.rules(path, to)
	s.AdditionalProperties.rules(path, to)
}
