package exitwhen

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func touch(t *testing.T, path string) {
	t.Helper()
	ok(t, os.WriteFile(path, nil, 0o644))
}

func TestFileAtStart(t *testing.T) {
	dir := t.TempDir()
	touch(t, dir+"/there")
	ok(t, os.Mkdir(dir+"/dir", 0o755))
	ok(t, os.Symlink("there", dir+"/link"))
	ok(t, os.Symlink("missing", dir+"/dangling"))
	ok(t, os.Symlink("loop", dir+"/loop"))
	for _, tt := range []struct {
		path             string
		created, deleted bool
	}{
		{"there", true, false},
		{"dir", true, false},
		{"dir/", true, false},
		{"link", true, false},
		{"missing", false, true},
		{"missing/parent", false, true},
		{"there/below-a-file", false, true}, // ENOTDIR
		{"dangling", false, true},
		{"loop", false, false},                            // ELOOP: can't tell
		{strings.Repeat("x", 300), false, false},          // ENAMETOOLONG: can't tell
		{"dir/" + strings.Repeat("../", 50), true, false}, // the root
	} {
		t.Run(tt.path, func(t *testing.T) {
			check(t, made(t)(FileCreated(dir+"/"+tt.path, unpolled)), tt.created)
			check(t, made(t)(FileDeleted(dir+"/"+tt.path, unpolled)), tt.deleted)
		})
	}
}

// The watch waits when the steps begin, so that only a report of the kernel can
// tell of them.
func TestFileNoticedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name, kind, path string
		before           string // what to prepare
		steps            []func(dir string) error
	}{
		{"created", "created", "stop", "", steps(create("stop"))},
		{"created as a directory", "created", "stop", "", steps(mkdir("stop"))},
		{"created by hard link", "created", "stop", "x", steps(hardlink("x", "stop"))},
		{"created by symbolic link", "created", "stop", "x", steps(symlink("x", "stop"))},
		{"moved here", "created", "stop", "x", steps(move("x", "stop"))},
		{"parents made one by one", "created", "a/b/stop", "", steps(mkdir("a"), mkdir("a/b"), create("a/b/stop"))},
		{"parents made together", "created", "a/b/c/stop", "", steps(mkdirAll("a/b/c"), create("a/b/c/stop"))},
		{"parent moved here", "created", "a/b/stop", "x/ x/b/ x/b/stop", steps(move("x", "a"))},
		{"parent made again", "created", "a/b/stop", "a/ a/b/", steps(remove("a/b"), remove("a"), mkdirAll("a/b"), create("a/b/stop"))},
		{"parent moved away and made again", "created", "a/b/stop", "a/ a/b/", steps(move("a", "z"), create("z/b/stop"), mkdirAll("a/b"), create("a/b/stop"))},
		{"parent moved away and back", "created", "a/b/stop", "a/ a/b/", steps(move("a", "z"), move("z", "a"), create("a/b/stop"))},
		{"parent is a file at first", "created", "a/stop", "a", steps(remove("a"), mkdir("a"), create("a/stop"))},
		{"link to the parent replaced", "created", "a/stop", "old/ new/ a:old", steps(symlink("new", "tmp"), move("tmp", "a"), create("new/stop"))},
		{"link to the parent replaced by one with the file", "created", "a/stop", "old/ new/ new/stop a:old", steps(symlink("new", "tmp"), move("tmp", "a"))},
		{"other names", "created", "stop", "", steps(create("stop.tmp"), create("sto"), mkdir("x"), create("x/stop"), create("stop"))},

		{"deleted", "deleted", "stop", "stop", steps(remove("stop"))},
		{"moved away", "deleted", "stop", "stop", steps(move("stop", "x"))},
		{"link removed", "deleted", "stop", "x stop:x", steps(remove("stop"))},
		{"parents removed", "deleted", "a/b/stop", "a/ a/b/ a/b/stop", steps(removeAll("a"))},
		{"parent moved away", "deleted", "a/b/stop", "a/ a/b/ a/b/stop", steps(move("a", "z"))},
		{"replaced, then deleted", "deleted", "stop", "x stop", steps(move("x", "stop"), remove("stop"))},
		{"parent replaced by a file", "deleted", "a/stop", "a/ a/stop x", steps(exchange("a", "x"))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			prepare(t, dir, tt.before)
			w := startWatch(t, made(t)(fileCondition(tt.kind, filepath.Join(dir, tt.path), unpolled)))
			for _, step := range tt.steps {
				w.parked()
				ok(t, step(dir))
			}
			w.happens()
		})
	}
}

// What is undone before anybody looks is noticed nevertheless: Check begins to
// watch, all of it happens, and only then does Watch come to read of it.
func TestFileUndoneAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name, kind, path, before string
		steps                    []func(dir string) error
		happens                  bool
	}{
		{"created and removed", "created", "stop", "", steps(create("stop"), remove("stop")), true},
		{"moved here and away", "created", "stop", "x", steps(move("x", "stop"), move("stop", "x")), true},
		{"directory moved there and back meanwhile", "created", "a/stop", "a/", steps(move("a", "z"), move("z", "a"), create("a/stop"), remove("a/stop")), true},
		{"dangling link created", "created", "stop", "", steps(symlink("missing", "stop")), false},
		{"dangling link replaced by another", "created", "stop", "stop:x", steps(symlink("missing", "tmp"), move("tmp", "stop")), false},
		{"created elsewhere", "created", "a/stop", "a/", steps(move("a", "z"), create("z/stop"), mkdir("a")), false},
		{"other file created", "created", "stop", "", steps(create("x"), remove("x")), false},
		{"deleted and made again", "deleted", "stop", "stop", steps(remove("stop"), create("stop")), true},
		{"moved away and back", "deleted", "stop", "stop", steps(move("stop", "x"), move("x", "stop")), true},
		{"parent moved away and back", "deleted", "a/stop", "a/ a/stop", steps(move("a", "x"), move("x", "a")), true},
		{"replaced", "deleted", "stop", "x stop", steps(move("x", "stop")), false},
		{"written", "deleted", "stop", "stop", steps(create("stop")), false},
		{"link to the parent replaced", "deleted", "a/stop", "old/ old/stop new/ new/stop a:old", steps(symlink("new", "tmp"), move("tmp", "a")), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			prepare(t, dir, tt.before)
			c := made(t)(fileCondition(tt.kind, filepath.Join(dir, tt.path), unpolled))
			check(t, c, false)
			for _, step := range tt.steps {
				ok(t, step(dir))
			}
			w := startWatch(t, c)
			if !tt.happens {
				w.parked().canceled()
				check(t, c, false)
				return
			}
			w.happens()
			check(t, c, true) // latched
			startWatch(t, c).happens()
		})
	}
}

// The creation of a link's target is one of the things that only polling tells.
func TestFilePolled(t *testing.T) {
	dir := t.TempDir()
	prepare(t, dir, "stop:elsewhere/target elsewhere/")
	w := startWatch(t, made(t)(FileCreated(dir+"/stop", Options{Poll: time.Millisecond})))
	touch(t, dir+"/elsewhere/target")
	w.happens()
}

// A directory in which much happens doesn't keep the poll from coming.
func TestFilePolledBesideTraffic(t *testing.T) {
	dir := t.TempDir()
	prepare(t, dir, "stop:elsewhere/target elsewhere/")
	w := startWatch(t, made(t)(FileCreated(dir+"/stop", Options{Poll: 50 * time.Millisecond})))
	w.parked()
	touch(t, dir+"/elsewhere/target")
	eventually(t, "the poll comes", func() bool {
		for range 100 {
			touch(t, dir+"/x")
			ok(t, os.Remove(dir+"/x"))
		}
		return len(w.result) == 1
	})
	w.happens()
}

func TestFileWithoutInotify(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log, logs := observed()
		f, err := newFile("file-created", dir+"/stop", true, Options{Poll: time.Hour, Log: log})
		ok(t, err)
		f.open = func(string) (*pathWatch, error) { return nil, unix.EMFILE }
		check(t, f, false)
		result := make(chan error, 1)
		go func() { result <- f.Watch(t.Context()) }()
		time.Sleep(10 * blindPoll)
		synctest.Wait()
		if len(result) != 0 {
			t.Fatal("Watch returned early")
		}
		touch(t, dir+"/stop")
		start := time.Now()
		ok(t, <-result)
		if took := time.Since(start); took > blindPoll {
			t.Errorf("noticed after %v, want at most %v", took, blindPoll)
		}
		if logs.Len() != 1 || logs.All()[0].ContextMap()["condition"] != "file-created="+dir+"/stop" {
			t.Errorf("logged %v, want one line that names the condition", logs.All())
		}
		ok(t, f.Close())
	})
}

func TestFileTroubleIsLoggedOncePerChange(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.Symlink("stop", dir+"/stop"))
	log, logs := observed()
	c := made(t)(FileDeleted(dir+"/stop", Options{Log: log}))
	for range 3 {
		check(t, c, false)
	}
	if n := logs.FilterMessageSnippet("can't tell whether").Len(); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	touch(t, dir+"/x")
	ok(t, os.Rename(dir+"/x", dir+"/stop"))
	check(t, c, false)
	ok(t, os.Symlink("stop", dir+"/x"))
	ok(t, os.Rename(dir+"/x", dir+"/stop"))
	check(t, c, false)
	if n := logs.FilterMessageSnippet("can't tell whether").Len(); n != 2 {
		t.Errorf("logged %d times, want again after it was well", n)
	}
}

func TestFilePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	ok(t, err)
	c := made(t)(FileCreated("x/../stop", unpolled))
	t.Chdir("/")
	touch(t, dir+"/stop")
	if want := "file-created=" + dir + "/stop"; c.String() != want {
		t.Errorf("String() = %q, want %q", c, want)
	}
	check(t, c, true)

	c, err = FileCreated("", unpolled)
	refused(t, c, err, "no file given")
	c, err = FileDeleted("a\x00b", unpolled)
	refused(t, c, err, "zero byte")
}

func fileCondition(kind, path string, o Options) (Condition, error) {
	if kind == "created" {
		return FileCreated(path, o)
	}
	return FileDeleted(path, o)
}

// prepare makes paths: "dir/", "file", "link:target".
func prepare(t *testing.T, dir, paths string) {
	t.Helper()
	for _, p := range strings.Fields(paths) {
		link, target, isLink := strings.Cut(p, ":")
		switch {
		case isLink:
			ok(t, os.Symlink(target, filepath.Join(dir, link)))
		case strings.HasSuffix(p, "/"):
			ok(t, os.Mkdir(filepath.Join(dir, p), 0o755))
		default:
			touch(t, filepath.Join(dir, p))
		}
	}
}

func steps(s ...func(dir string) error) []func(dir string) error { return s }

func create(name string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644) }
}

func mkdir(name string) func(string) error {
	return func(dir string) error { return os.Mkdir(filepath.Join(dir, name), 0o755) }
}

func mkdirAll(name string) func(string) error {
	return func(dir string) error { return os.MkdirAll(filepath.Join(dir, name), 0o755) }
}

func remove(name string) func(string) error {
	return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
}

func removeAll(name string) func(string) error {
	return func(dir string) error { return os.RemoveAll(filepath.Join(dir, name)) }
}

func move(from, to string) func(string) error {
	return func(dir string) error { return os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)) }
}

func exchange(a, b string) func(string) error {
	return func(dir string) error {
		return unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, a), unix.AT_FDCWD, filepath.Join(dir, b), unix.RENAME_EXCHANGE)
	}
}

func symlink(target, name string) func(string) error {
	return func(dir string) error { return os.Symlink(target, filepath.Join(dir, name)) }
}

func hardlink(from, to string) func(string) error {
	return func(dir string) error { return os.Link(filepath.Join(dir, from), filepath.Join(dir, to)) }
}
