package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func ctlCommand() *cobra.Command {
	var control string
	cmd := &cobra.Command{
		Use:   "ctl --control unix:///PATH drain|reload|status",
		Short: "Speak to a running server",
		Long: `Speak to a running server through its control socket.

  drain   refuse newcomers, let clients finish, then exit; returns at once
  reload  read anew the sizes of the volumes, as SIGHUP does
  status  print phase, clients and counters as JSON`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"drain", "reload", "status"},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := parseAddress(control)
			if err != nil || a.network != "unix" {
				return fmt.Errorf("--control: %q is no control socket: write unix:///PATH, as the server was given it", control)
			}
			method := http.MethodGet
			if args[0] != "status" {
				method = http.MethodPost
			}
			return call(cmd.Context(), a.addr, method, args[0], cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&control, "control", "", "the server's control socket, unix:///PATH (required)")
	return cmd
}

// call sends one request through the control socket at path and copies the
// answer to out.
func call(ctx context.Context, path, method, what string, out io.Writer) error {
	if ctx == nil {
		ctx = context.Background()
	}
	client := http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}},
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://nbdserver/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("--control: no server answers at %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: the server answered %s: %s", what, resp.Status, strings.TrimSpace(string(body)))
	}
	_, err = out.Write(body)
	return err
}
