package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/detect"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
)

// detectionFields returns the settings of the rules of misuse.
func detectionFields() fields {
	f := fields{
		detect.KnownRanges: commas("Ranges (CIDR) of known addresses, such as the exits of an office or of a VPN. Uses from " +
			"there are neither new, nor another network, nor guesses. Default: none."),
		detect.HostingNetworks: commas("Networks (such as AS64496) of hosting providers. impossible_travel ignores two uses " +
			"if each comes from a hosting network or a known range. Default: none."),
	}
	for _, r := range detect.Rules {
		modes, texts := make([]any, 0, 3), make([]string, 0, 3)
		for _, mode := range r.Rule.Modes() {
			modes, texts = append(modes, string(mode)), append(texts, string(mode))
		}
		about := strings.ToUpper(r.About[:1]) + r.About[1:]
		f[string(r.Rule)] = preset(oneOf(str(fmt.Sprintf("%s: %s. Default: on.", about, strings.Join(texts, ", "))), modes...),
			string(detect.On))
	}
	for _, t := range detect.Thresholds {
		about := strings.ToUpper(t.About[:1]) + t.About[1:]
		if t.Duration {
			f[t.Name] = preset(secs(fmt.Sprintf("%s. Default: %s.", about,
				refusal.Short(time.Duration(t.Default)*time.Second))), int(t.Default))
		} else {
			f[t.Name] = preset(num(fmt.Sprintf("%s. %d to %d. Default: %d.", about, t.Min, t.Max, t.Default)), int(t.Default))
		}
	}
	return f
}

// detectionAnswer are the settings of the rules as read.
var detectionAnswer = readFields(fields{
	"unavailable": object("Rules that make no findings now, or fewer: rule to reason. Absent if empty."),
}, detectionFields())

func (b *backend) pathsDetection() []*framework.Path {
	read := b.answer(b.pathDetectionRead, "Read the settings of the rules of misuse.", ok(detectionAnswer))
	read.DisplayAttrs = &framework.DisplayAttributes{OperationSuffix: "detection-configuration"}
	update := b.change(b.pathDetectionUpdate, "Change the settings of the rules of misuse. Omitted fields keep their values.")
	update.DisplayAttrs = &framework.DisplayAttributes{OperationVerb: "configure", OperationSuffix: "detection"}
	return []*framework.Path{path("config/detection", "", "", detectionFields(),
		operations{logical.ReadOperation: read, logical.UpdateOperation: update},
		"Settings of the rules that find misuse of tokens.",
		"Each rule is off or on, or suspends or revokes the grant of the token that it finds. Each threshold has a default, with its "+
			"source in docs/insight.md. The findings are in \"findings\".")}
}

func (b *backend) pathDetectionRead(_ context.Context, _ *state, _ *request, _ *input) (*response, error) {
	return members(detectionAnswer, b.Detect.Settings().Members(), map[string]any{"unavailable": b.Unavailable()}), nil
}

func (b *backend) pathDetectionUpdate(ctx context.Context, _ *state, req *request, d *input) (*response, error) {
	change := &detect.Change{Modes: make(map[detect.Rule]detect.Mode), Numbers: make(map[string]int64)}
	for _, r := range detect.Rules {
		if mode, given := d.GetOk(string(r.Rule)); given {
			change.Modes[r.Rule] = detect.Mode(mode.(string))
		}
	}
	for _, t := range detect.Thresholds {
		if n, given := d.GetOk(t.Name); given {
			change.Numbers[t.Name] = int64(n.(int))
		}
	}
	if list, given := d.GetOk(detect.KnownRanges); given {
		ranges := list.([]string)
		change.Ranges = &ranges
	}
	if list, given := d.GetOk(detect.HostingNetworks); given {
		networks := list.([]string)
		change.Networks = &networks
	}
	return warned(b.Detect.Change(ctx, req.Storage, change))
}
