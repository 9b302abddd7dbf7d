package serverstatus

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// timeout is how long a server has for its answer.
	timeout = 2 * time.Second
	// maxPage is the most bytes of a page that are read. One with the most clients
	// and volumes that a server lists has half of that.
	maxPage = 256 << 10
	// maxHeader is the most bytes of the header that are read.
	maxHeader = 16 << 10
)

// Fetch asks the server at an address, HOST:PORT, for its status. Concurrent calls are
// safe, and each ends with its context.
type Fetch func(ctx context.Context, address string) (Answer, error)

// HTTP is a Fetch over HTTP. It believes nothing: whoever answers has two seconds and
// 256 KiB, isn't followed to another place, and gets no proxy, cookie or credential
// to see. Connections aren't kept: a thousand idle ones cost more than to make a
// hundred in a second.
func HTTP() Fetch {
	client := &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, address string) (Answer, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/status", nil)
		if err != nil {
			return Answer{}, err
		}
		res, err := client.Do(req)
		if err != nil {
			return Answer{}, err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return Answer{}, fmt.Errorf("%s answers with status %d", req.URL, res.StatusCode)
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, maxPage+1))
		if err != nil {
			return Answer{}, fmt.Errorf("%s: %w", req.URL, err)
		}
		if len(body) > maxPage {
			return Answer{}, fmt.Errorf("%s has more than %d bytes", req.URL, maxPage)
		}
		a, err := parse(body)
		if err != nil {
			return Answer{}, fmt.Errorf("%s: %w", req.URL, err)
		}
		return a, nil
	}
}
