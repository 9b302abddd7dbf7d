package serverstatus

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// TestParse reads pages, of servers and of whoever else may answer.
func TestParse(t *testing.T) {
	scratch := func(used, limit string) string {
		return `{"connections": 1, "exports": [{"name": "root", "size": 1048576, "scratchBytes": ` + used + `, "scratchLimit": ` + limit + `}]}`
	}
	full := func(limit uint64) Answer { return Answer{1, []Full{{"root", limit}}} }
	for _, c := range []struct {
		name, page string
		want       Answer
		err        string
	}{
		{name: "idle", page: `{"connections": 0, "exports": [{"name": "disk", "size": 4096}]}`},
		{name: "busy", page: `{"version": "1", "connections": 3, "clients": [{"state": "connected"}], "exports": null}`, want: Answer{Connections: 3}},
		{name: "room in the scratch", page: scratch("65536", "131072"), want: Answer{Connections: 1}},
		{name: "no limit", page: `{"connections": 1, "exports": [{"name": "root", "size": 1048576, "scratchBytes": 131072}]}`, want: Answer{Connections: 1}},
		{name: "full", page: scratch("131072", "131072"), want: full(131072)},
		{name: "no room for another block", page: scratch("131072", "190000"), want: full(190000)},
		{name: "more than full", page: scratch("131072", "65536"), want: full(65536)},
		{name: "all of the volume", page: scratch("1048576", "1048576"), want: Answer{Connections: 1}},
		{name: "in order", page: `{"connections": 1, "exports": [{"name": "b", "size": 9, "scratchLimit": 1}, {"name": "a", "size": 9, "scratchLimit": 2}]}`,
			want: Answer{1, []Full{{"a", 2}, {"b", 1}}}},

		{name: "less than nothing", page: `{"connections": -5}`},
		{name: "more than an int32", page: `{"connections": 9223372036854775807}`, want: Answer{Connections: math.MaxInt32}},
		{name: "more than an int64", page: `{"connections": 1e400}`, err: "connections"},
		{name: "no number", page: `{"connections": "many"}`, err: "connections"},
		{name: "nothing of it", page: `{}`, err: "no connections"},
		{name: "a list", page: `[]`, err: "JSON"},
		{name: "nothing", page: ``, err: "JSON"},
		{name: "a web page", page: `<html>`, err: "JSON"},
		{name: "deep", page: strings.Repeat("[", 100_000), err: "JSON"},
		{name: "a long name", page: `{"connections": 1, "exports": [{"name": "` + strings.Repeat("x", 64) + `", "size": 9, "scratchLimit": 1}]}`, want: Answer{Connections: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse([]byte(c.page))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want an error with %q", err, c.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

// TestManyVolumes: what is kept of a page is bounded.
func TestManyVolumes(t *testing.T) {
	var all []string
	for i := range 1000 {
		all = append(all, fmt.Sprintf(`{"name": "v%d", "size": 9, "scratchLimit": 1}`, i))
	}
	a, err := parse([]byte(`{"connections": 1, "exports": [` + strings.Join(all, ",") + `]}`))
	if err != nil || len(a.Full) != maxVolumes {
		t.Errorf("%d volumes, %v", len(a.Full), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, page []byte) {
		a, err := parse(page)
		if err != nil && (a.Connections != 0 || a.Full != nil) {
			t.Errorf("%+v and %v", a, err)
		}
		if a.Connections < 0 || len(a.Full) > maxVolumes {
			t.Errorf("%+v", a)
		}
		for _, full := range a.Full {
			if len(full.Volume) > maxName {
				t.Errorf("a name of %d bytes", len(full.Volume))
			}
		}
	})
}
