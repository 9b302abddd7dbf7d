package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// call is one request of the manager.
type call struct {
	verb string
	// kind is the resource with its subresource, such as "nbdexports/status".
	kind string
	// export is whose request it is, as NAMESPACE/NAME; empty for one that is made
	// for several exports or for the manager itself.
	export string
	// own says that it is for the manager itself, such as its lease.
	own bool
	// code is the HTTP status.
	code int
}

// write tells whether a call changes something for the sake of exports.
func (c call) write() bool {
	return !c.own && slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, c.verb)
}

// String is what calls are counted under: verb and kind, and the status if that
// isn't a success.
func (c call) String() string {
	s := c.verb + " " + c.kind
	switch {
	case c.code == 201 && c.verb == "patch":
		s += ", new"
	case c.code >= 300:
		s += fmt.Sprintf(", %d", c.code)
	}
	return s
}

// auditLog reads what the API server writes down.
type auditLog struct {
	file string
	read int64
	all  []call
}

// exportName is the name of an export in those of all that is made for it.
var exportName = regexp.MustCompile(`\bx\d{5}\b`)

// update reads on to the end of the log.
func (a *auditLog) update() error {
	f, err := os.Open(a.file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(a.read, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	// What comes after the last line's end is half a line.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	a.read += int64(len(text))
	for line := range bytes.Lines(text) {
		c, counts, err := parseCall(line)
		if err != nil {
			return fmt.Errorf("%s: %w", a.file, err)
		}
		if counts {
			a.all = append(a.all, c)
		}
	}
	return nil
}

// parseCall reads a line of the audit log. A watch counts when it begins, whatever
// else when it has ended; what isn't about objects, as the API's discovery, counts as
// a call without a kind.
func parseCall(line []byte) (c call, counts bool, err error) {
	var e struct {
		Stage      string
		Verb       string
		RequestURI string
		ObjectRef  struct {
			Resource, Subresource, Namespace, Name string
		}
		ResponseStatus struct{ Code int }
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return call{}, false, err
	}
	o := e.ObjectRef
	c = call{verb: e.Verb, kind: o.Resource, own: o.Namespace == managerNamespace, code: e.ResponseStatus.Code}
	if o.Subresource != "" {
		c.kind += "/" + o.Subresource
	}
	if c.kind == "" {
		c.kind, _, _ = strings.Cut(e.RequestURI, "?")
	}
	if name := exportName.FindString(o.Name); name != "" {
		c.export = o.Namespace + "/" + name
	}
	return c, (e.Verb == "watch") == (e.Stage == "ResponseStarted"), nil
}
