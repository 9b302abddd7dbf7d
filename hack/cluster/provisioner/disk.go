package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// makeFolder makes a folder that every user may write to: what fsGroup does
// to a real volume's root is not worth relying on here.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// makeBlock returns a loop device over image. Called again, it finds the one
// that the call before has made.
func makeBlock(ctx context.Context, image string, size int64) (device string, err error) {
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		return "", err
	}
	f, err := os.OpenFile(image, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	err = f.Truncate(size)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	if device, err = loopOf(ctx, image); device != "" || err != nil {
		return device, err
	}
	return losetup(ctx, "--find", "--show", image)
}

// removeBlock detaches image from its loop device, if any, and removes it.
func removeBlock(ctx context.Context, image string) error {
	if _, err := os.Stat(image); os.IsNotExist(err) {
		return nil
	}
	device, err := loopOf(ctx, image)
	if err != nil {
		return err
	}
	if device != "" {
		if _, err := losetup(ctx, "--detach", device); err != nil {
			return err
		}
	}
	return os.Remove(image)
}

func loopOf(ctx context.Context, image string) (string, error) {
	out, err := losetup(ctx, "--noheadings", "--output", "NAME", "--associated", image)
	device, _, _ := strings.Cut(out, "\n")
	return strings.TrimSpace(device), err
}

func losetup(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "losetup", args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("losetup %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, nil
}
