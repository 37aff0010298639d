package alert

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
)

// Types of events.
const (
	typePrefix = "apitoken.finding." // and the kind of the notice
	typeTest   = "apitoken.alert.test"
)

// cloudEvent is an event in the JSON format of CloudEvents 1.0, structured mode.
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"`
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            any       `json:"data"`
}

// noticeData is the data of an event about a finding: the members of findings/:id, and more.
type noticeData struct {
	detect.Finding
	Change      string   `json:"change,omitempty"`
	Commands    []string `json:"commands"`
	Environment string   `json:"environment"`
	Mount       string   `json:"mount"`
}

// testData is the data of a test event.
type testData struct {
	Alert       string `json:"alert"`
	Summary     string `json:"summary"`
	Environment string `json:"environment"`
	Mount       string `json:"mount"`
}

// notice returns the event of a notice, as an alert sends the event.
func (a *Alert) notice(n *detect.Notice, o Origin) (*event, error) {
	f := n.Finding
	if a.Format == Slack {
		return slackEvent(n.ID, slackText(n, a.MountPoint, o))
	}
	if f.Evidence == nil {
		f.Evidence = []detect.Sight{}
	}
	return structured(&cloudEvent{
		ID: n.ID, Source: o.Source, Type: typePrefix + string(n.Kind), Subject: "findings/" + f.ID, Time: n.At.UTC(),
		Data: &noticeData{f, n.Change, f.Advice(a.MountPoint), o.Environment, a.MountPoint},
	})
}

// test returns a test event.
func (a *Alert) test(o Origin, now time.Time) (*event, error) {
	id, summary := newID(12), fmt.Sprintf("test of alert %s", a.name)
	if a.Format == Slack {
		return slackEvent(id, slackEscape(fmt.Sprintf("%s of %s: the receiver works", summary, o.Environment)))
	}
	return structured(&cloudEvent{
		ID: id, Source: o.Source, Type: typeTest, Subject: "alerts/" + a.name, Time: now.UTC(),
		Data: &testData{a.name, summary, o.Environment, a.MountPoint},
	})
}

func structured(e *cloudEvent) (*event, error) {
	e.SpecVersion, e.DataContentType = "1.0", "application/json"
	body, err := json.Marshal(e)
	return &event{e.ID, "application/cloudevents+json", body}, err
}

func slackEvent(id, text string) (*event, error) {
	body, err := json.Marshal(map[string]string{"text": text})
	return &event{id, "application/json", body}, err
}

// slackText returns a notice in the markup of Slack.
func slackText(n *detect.Notice, mountPoint string, o Origin) string {
	f := &n.Finding
	var b strings.Builder
	fmt.Fprintf(&b, "*%s: %s finding %s* (%s)\n", slackEscape(string(f.Rule)), f.Severity, n.Kind, slackEscape(o.Environment))
	fmt.Fprintf(&b, "%s\n", slackEscape(f.Summary))
	for _, fact := range []struct{ name, value string }{
		{"change", n.Change}, {"token", f.TokenID}, {"role", f.Role}, {"entity", f.EntityID}, {"address", f.Address},
		{"response", f.Response}, {"acknowledged by", f.By}, {"note", f.Note},
	} {
		if fact.value != "" {
			fmt.Fprintf(&b, "%s: %s\n", fact.name, slackEscape(fact.value))
		}
	}
	fmt.Fprintf(&b, "`vault read %sfindings/%s`", slackEscape(mountPoint), f.ID)
	return b.String()
}

// slackEscape escapes the characters with which Slack makes links and mentions.
var slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
