package nbdserver

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write what was seen into the scripts of testdata")

// script is one table of a file in testdata/drain: what is done to a server, one
// step in a row, and what is seen of it.
//
//	== title
//	server SETTING=VALUE...
//	TIME | STEP | SEEN
//
// TIME counts from the table's start, and holds for the next rows too if theirs
// is empty; it costs nothing. A row without a step says what is seen at that
// time by itself. Lines that begin with # are for the reader.
type script struct {
	title  string
	line   int
	server map[string]string
	rows   []*row
}

type row struct {
	line       int
	at         time.Duration
	time       string // as it is written
	step, seen string
	got        string
}

// scriptFile keeps every line as it stands, so that it can be written again.
type scriptFile struct {
	path    string
	lines   []string
	scripts []*script
}

func readScripts(t *testing.T, path string) *scriptFile {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &scriptFile{path: path}
	lines := bufio.NewScanner(strings.NewReader(string(b)))
	var s *script
	for lines.Scan() {
		line := lines.Text()
		f.lines = append(f.lines, line)
		n := len(f.lines)
		if line == "" || line[0] == '#' {
			continue
		}
		if title, ok := strings.CutPrefix(line, "== "); ok {
			s = &script{title: title, line: n, server: map[string]string{}}
			f.scripts = append(f.scripts, s)
			continue
		}
		if s == nil {
			t.Fatalf("%s:%d: a title (== ...) must come first", path, n)
		}
		if settings, ok := strings.CutPrefix(line, "server"); ok {
			for _, pair := range strings.Fields(settings) {
				k, v, _ := strings.Cut(pair, "=")
				s.server[k] = v
			}
			continue
		}
		cells := strings.SplitN(line, "|", 3)
		if len(cells) < 2 {
			t.Fatalf("%s:%d: a row is TIME | STEP | SEEN", path, n)
		}
		r := &row{line: n, time: strings.TrimSpace(cells[0]), step: strings.TrimSpace(cells[1])}
		if len(cells) == 3 {
			r.seen = strings.TrimSpace(cells[2])
		}
		r.got = r.seen // unless it is played
		if len(s.rows) > 0 {
			r.at = s.rows[len(s.rows)-1].at
		}
		if r.time != "" {
			if r.at, err = time.ParseDuration(r.time); err != nil {
				t.Fatalf("%s:%d: %v", path, n, err)
			}
		}
		s.rows = append(s.rows, r)
	}
	return f
}

// write puts what was seen in place of what was expected, and aligns the columns.
func (f *scriptFile) write(t *testing.T) {
	t.Helper()
	for _, s := range f.scripts {
		var times, steps int
		for _, r := range s.rows {
			times, steps = max(times, len(r.time)), max(steps, len(r.step))
		}
		for _, r := range s.rows {
			f.lines[r.line-1] = strings.TrimRight(fmt.Sprintf("%*s | %-*s | %s", times, r.time, steps, r.step, r.got), " ")
		}
	}
	if err := os.WriteFile(f.path, []byte(strings.Join(f.lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}
