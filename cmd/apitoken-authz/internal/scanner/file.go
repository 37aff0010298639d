package scanner

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkEvery is how often a file is looked at for changes.
const checkEvery = 2 * time.Second

// file is what a file says. The file is read again when it changes; what cannot be used is not taken.
type file[T any] struct {
	name, path string
	logger     *slog.Logger
	parse      func([]byte) (T, error)

	mu      sync.Mutex
	value   T
	at      time.Time // modification time of the file that value is of
	size    int64
	checked time.Time
}

// openFile reads a file. name is that of the setting, for errors.
func openFile[T any](name, path string, logger *slog.Logger, parse func([]byte) (T, error)) (*file[T], error) {
	f := &file[T]{name: name, path: path, logger: logger, parse: parse}
	if err := f.read(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func (f *file[T]) read() error {
	f.checked = time.Now()
	info, err := os.Stat(f.path)
	if err != nil || info.ModTime().Equal(f.at) && info.Size() == f.size {
		return err
	}
	f.at, f.size = info.ModTime(), info.Size()
	text, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	value, err := f.parse(text)
	if err == nil {
		f.value = value
	}
	return err
}

// get returns what the file says.
func (f *file[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) >= checkEvery {
		if err := f.read(); err != nil {
			f.logger.Error("file not reloaded; what it said before stays in use", "setting", f.name, "error", err.Error())
		}
	}
	return f.value
}
