package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// ctlCommands are what a running server can be told and asked.
var ctlCommands = []string{"drain", "pause", "reload", "resume", "status"}

func ctlCommand() *cobra.Command {
	var control string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "ctl --control unix:///PATH drain|pause|reload|resume|status",
		Short: "Speak to a running server",
		Long: `Speak to a running server through its control socket.

  drain   refuse newcomers, let clients finish, then exit; returns at once
  pause   let no request reach the volumes, for a copy of the storage below: returns
          when those under way are done and the volumes are flushed; clients wait
  reload  read anew the sizes of the volumes, the certificates and --config, as
          SIGHUP does
  resume  end a pause; it is an error if it has ended before
  status  print phase, clients and counters as JSON`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(ctlCommands, args[0]) {
				return fmt.Errorf("ctl: %q: write one of %s", strings.Join(args, " "), strings.Join(ctlCommands, ", "))
			}
			return nil
		},
		ValidArgs: ctlCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := parseAddress(control)
			if err != nil || a.network != "unix" {
				return fmt.Errorf("--control: %q is no control socket: write unix:///PATH, as the server was given it", control)
			}
			if args[0] != "pause" && cmd.Flags().Changed("timeout") {
				return errors.New("--timeout goes with pause only")
			}
			method, what, patience := ctlRequest(args[0], timeout)
			return call(cmd.Context(), a.addr, method, what, patience, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&control, "control", "", "`ADDRESS` of the server's control socket, unix:///PATH (required)")
	cmd.Flags().DurationVar(&timeout, "timeout", defaultPause, "`DURATION` after which a pause ends if nobody resumes, from its beginning; 1h at most")
	return cmd
}

// ctlRequest is what the server is asked to do something, and how long the answer
// may take.
func ctlRequest(do string, pause time.Duration) (method, what string, patience time.Duration) {
	switch do {
	case "status":
		return http.MethodGet, do, answerTime
	case "pause":
		seconds := strconv.FormatFloat(pause.Seconds(), 'f', -1, 64)
		return http.MethodPost, do + "?timeout=" + seconds, pause + answerTime
	}
	return http.MethodPost, do, answerTime
}

// call sends one request through the control socket at path and copies the
// answer to out.
func call(ctx context.Context, path, method, what string, patience time.Duration, out io.Writer) error {
	if ctx == nil {
		ctx = context.Background()
	}
	client := http.Client{
		Timeout: patience,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}},
	}
	name, _, _ := strings.Cut(what, "?")
	req, err := http.NewRequestWithContext(ctx, method, "http://nbdserver/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("--control: no server answers at %s: %w", path, errors.Unwrap(err)) // without the URL, which is none
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: the server answered %s: %s", name, resp.Status, strings.TrimSpace(string(body)))
	}
	_, err = out.Write(body)
	return err
}
