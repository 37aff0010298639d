package server

import (
	"context"
	"log/slog"
	"path/filepath"
	"reflect"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/cmd/apitoken-authz/internal/config"
)

// Reload reads the configuration again, and takes its rules. A request in flight keeps the rules that it began with. If the
// file has an error, the rules of before stay in use.
func (s *Server) Reload(path string) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	f, err := config.Load(path)
	if err != nil {
		s.metrics.reloads.WithLabelValues("error").Inc()
		s.metrics.loaded.Set(0)
		s.logger.Error("configuration not reloaded; the rules of before stay in use", "file", path, "error", err.Error())
		return err
	}
	s.rules.Store(f.RuleSet().Keep(s.rules.Load()))
	s.metrics.reloads.WithLabelValues("ok").Inc()
	s.metrics.loaded.Set(1)
	s.logger.Info("configuration reloaded", "file", path, "rules", f.RuleSet().Len())
	if !sameSettings(s.settings, f) {
		s.logger.Warn("settings other than rules changed; restart the authorizer to use them", "file", path)
	}
	return nil
}

// sameSettings reports whether two files differ in their rules at most.
func sameSettings(a, b *config.File) bool {
	return reflect.DeepEqual(a.WithoutRules(), b.WithoutRules())
}

// settleTime is how long a file must be unchanged before it is read, since editors write a file in several steps.
const settleTime = 100 * time.Millisecond

// Watch reloads the configuration when its file changes, until ctx ends. It watches the folder: editors and Kubernetes replace
// files.
func (s *Server) Watch(ctx context.Context, path string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		_ = watcher.Close()
		return err
	}
	go s.watch(ctx, watcher, path, target)
	return nil
}

// watch reloads on changes. target is the file that path led to when the rules were read.
func (s *Server) watch(ctx context.Context, watcher *fsnotify.Watcher, path, target string) {
	defer watcher.Close()
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.Errors:
			s.logger.Error("watching the configuration failed; SIGHUP still reloads it", slog.Any("error", err))
		case event := <-watcher.Events:
			// Kubernetes replaces a symbolic link beside the file.
			now, _ := filepath.EvalSymlinks(path)
			changed := filepath.Clean(event.Name) == filepath.Clean(path) && !event.Has(fsnotify.Chmod)
			if changed || now != target {
				target = now
				settled.Reset(settleTime)
			}
		case <-settled.C:
			_ = s.Reload(path) // logged
		}
	}
}
