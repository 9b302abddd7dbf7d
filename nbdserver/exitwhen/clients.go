package exitwhen

import (
	"sync"
	"time"
)

// Clients knows which clients are connected, for Idle and LastClientLeaves. The
// zero value has none. All methods may be called from any goroutine and return
// at once.
type Clients struct {
	mu        sync.Mutex
	connected map[any]struct{}
	lastLeft  time.Time     // when the last one left; zero if nobody did
	changed   chan struct{} // closed at the next change; nil while nobody waits for one
}

// Connected tells that a client is there. The key is any comparable value that
// stands for this client alone.
func (c *Clients) Connected(client any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected == nil {
		c.connected = map[any]struct{}{}
	}
	c.connected[client] = struct{}{}
	c.tell()
}

// Left tells that a client has gone. It does nothing if the client wasn't
// connected: a connection may end before it has become a client.
func (c *Clients) Left(client any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.connected[client]; !ok {
		return
	}
	delete(c.connected, client)
	if len(c.connected) == 0 {
		c.lastLeft = time.Now()
	}
	c.tell()
}

func (c *Clients) tell() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// look tells whether nobody is connected and when the last one left, and returns
// a channel that is closed when either may have changed.
func (c *Clients) look() (absent bool, lastLeft time.Time, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return len(c.connected) == 0, c.lastLeft, c.changed
}
