package server

import (
	"io"
	"sync"
	"time"
)

const (
	lineDelay = 100 * time.Millisecond // a line waits for others at most so long
	lineBytes = 32 << 10               // as many bytes are written without waiting
)

// Lines gather the lines of the access log, and write them together: a system call for each line would cost more than the
// decision. Close writes what waits. A crash of the process loses the lines of the last lineDelay.
type Lines struct {
	out io.Writer

	mu     sync.Mutex
	gather []byte
	timer  *time.Timer // runs while lines wait
	closed bool
}

// NewLines returns Lines that are written to out.
func NewLines(out io.Writer) *Lines {
	l := &Lines{out: out, gather: make([]byte, 0, lineBytes+maxLine)}
	l.timer = time.AfterFunc(time.Hour, func() { _ = l.Flush() })
	l.timer.Stop()
	return l
}

// maxLine is more than a line of the access log has, so that the buffer does not grow.
const maxLine = 4 << 10

// Write adds a line.
func (l *Lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.gather) == 0 && !l.closed {
		l.timer.Reset(lineDelay)
	}
	l.gather = append(l.gather, line...)
	if len(l.gather) < lineBytes && !l.closed {
		return len(line), nil
	}
	return len(line), l.flush()
}

// Flush writes the lines that wait.
func (l *Lines) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

// flush writes the lines that wait. The caller holds mu.
func (l *Lines) flush() error {
	l.timer.Stop()
	if len(l.gather) == 0 {
		return nil
	}
	_, err := l.out.Write(l.gather)
	l.gather = l.gather[:0]
	return err
}

// Close writes the lines that wait. Later lines are written at once.
func (l *Lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.flush()
}
