package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/alert"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

func (b *backend) pathsAlerts() []*framework.Path {
	nameOnly := fields{"name": alert.Fields["name"]}
	one := "alerts/" + framework.GenericNameRegex("name")
	return append(b.pathsEntries("alerts", func(st *state) entries { return st.Alerts.Entries }, alert.Fields,
		crud(
			forward(b.answer(b.pathAlertsRead, "Read an alert without secrets, and the state of its queue.", ok(alert.Answer))),
			forward(b.answer(b.pathAlertsWrite, "Create or change an alert. Omitted fields keep their values.",
				ok(alert.WriteAnswer))),
			b.change(b.pathAlertsDelete, "Delete an alert, and what waits for a delivery."),
		),
		"A webhook that is called about findings of misuse.",
		"An alert sends a notice about each finding that its fields select, signed as Standard Webhooks say, as a CloudEvent or as "+
			"a text for Slack. A notice waits in storage until the receiver takes the notice, at most three days."),
		path(one+"/test", "test", "alert", nameOnly,
			only(logical.UpdateOperation, forward(b.answer(b.pathAlertsTest, "Send a test event at once.", ok(alert.TestAnswer)))),
			"Send a test event at once, and return the receiver's status.",
			"A failure is an error with the reason. A success has the queue of the alert tried again at once."),
		path(one+"/rotate-secret", "rotate", "alert-secret", alert.RotateFields,
			only(logical.UpdateOperation,
				forward(b.answer(b.pathAlertsRotate, "Replace the secret of an alert.", ok(alert.RotateAnswer)))),
			"Replace the secret of an alert.",
			"Both secrets sign each delivery until overlap has passed: the receiver can change to the new secret meanwhile."))
}

func (b *backend) pathAlertsRead(_ context.Context, st *state, _ *request, d *input) (*response, error) {
	name := d.Get("name").(string)
	a := st.Alerts.Entries.Get(name)
	if a == nil {
		return nil, refusal.Wrap(st.Alerts.Entries.Broken(name))
	}
	return members(alert.Answer, a.Members(b.Now()), map[string]any{"queue": st.Alerts.Describe(a)}), nil
}

func (b *backend) pathAlertsWrite(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	change := given[alert.Change](d)
	change.MountPoint = req.MountPoint
	generated, err := st.Alerts.Write(ctx, req.Storage, d.Get("name").(string), change)
	warnings := missingRoles(st, change)
	if err != nil || generated == "" {
		return warned(warnings, err)
	}
	resp := members(alert.WriteAnswer, map[string]any{"secret": generated})
	resp.Warnings = warnings
	return resp, nil
}

// missingRoles returns a warning for each role that a write of an alert names and that does not exist: a name that is misspelled
// would have the alert send nothing. It is no error, since the role may be created later.
func missingRoles(st *state, change *alert.Change) (warnings []string) {
	if change.Roles == nil {
		return nil
	}
	for _, name := range *change.Roles {
		if !st.Roles.Has(name) {
			warnings = append(warnings, fmt.Sprintf("roles: there is no role %q: the alert sends nothing about it until there is one",
				refusal.Clip(name)))
		}
	}
	return warnings
}

func (b *backend) pathAlertsDelete(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	return nil, st.Alerts.Delete(ctx, req.Storage, d.Get("name").(string))
}

func (b *backend) pathAlertsTest(ctx context.Context, st *state, _ *request, d *input) (*response, error) {
	id, status, err := st.Alerts.Test(ctx, d.Get("name").(string))
	if err != nil {
		return nil, err
	}
	return members(alert.TestAnswer, map[string]any{"id": id, "status": status}), nil
}

func (b *backend) pathAlertsRotate(ctx context.Context, st *state, req *request, d *input) (*response, error) {
	rotation := &alert.Rotation{Overlap: alert.DefaultOverlap, Secret: d.Get("secret").(string)}
	if _, given := d.GetOk("overlap"); given {
		rotation.Overlap = seconds(d, "overlap")
	}
	generated, until, err := st.Alerts.Rotate(ctx, req.Storage, d.Get("name").(string), rotation)
	if err != nil {
		return nil, err
	}
	resp := members(alert.RotateAnswer, map[string]any{"secret": generated, "previous_secret_expires_at": until})
	if len(resp.Data) == 0 {
		return nil, nil
	}
	return resp, nil
}
