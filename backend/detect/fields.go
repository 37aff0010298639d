package detect

import (
	"fmt"
	"strings"
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/refusal"
	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/schema"
)

// SettingsFields are the fields of Change: a rule has a mode, a threshold has a number or a duration.
var SettingsFields = settingsFields()

func settingsFields() schema.Fields {
	f := schema.Fields{
		KnownRanges: schema.Commas("Ranges (CIDR) of known addresses, such as the exits of an office or of a VPN. Uses from " +
			"there are neither new, nor another network, nor guesses. Default: none."),
		HostingNetworks: schema.Commas("Networks (such as AS64496) of hosting providers. impossible_travel ignores two uses if " +
			"each comes from a hosting network or a known range. Default: none."),
	}
	for _, r := range Rules {
		var modes []any
		for _, mode := range r.Rule.Modes() {
			modes = append(modes, string(mode))
		}
		f[string(r.Rule)] = schema.Str(sentence(r.About) + ": " + list(r.Rule.Modes()) + ". Default: on.").
			OneOf(modes...).Preset(string(On))
	}
	for _, t := range Thresholds {
		about := sentence(t.About)
		if t.Duration {
			usual := refusal.Short(time.Duration(t.Default) * time.Second)
			f[t.Name] = schema.Secs(fmt.Sprintf("%s. Default: %s.", about, usual)).Preset(int(t.Default))
		} else {
			f[t.Name] = schema.Num(fmt.Sprintf("%s. %d to %d. Default: %d.", about, t.Min, t.Max, t.Default)).Preset(int(t.Default))
		}
	}
	return f
}

// sentence returns a text with a capital letter.
func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// SettingsAnswer are the members of Settings.Members, and the rules that make no findings now.
var SettingsAnswer = schema.Read(schema.Fields{
	"unavailable": schema.Object("Rules that make no findings now, or fewer: rule to reason. Absent if empty."),
}, SettingsFields)

// FindingFields are the fields of a request about one finding.
var FindingFields = schema.Fields{
	"id": schema.Str("ID of the finding: 24 hexadecimal digits.").Must(),
	"note": schema.Str(fmt.Sprintf("Why the finding is as it should be, or what was done: at most %d bytes, without a token.",
		MaxNote)),
}

// FindingAnswer are the members of Finding, see Finding.Members.
var FindingAnswer = schema.Fields{
	"id":            schema.Str("ID of the finding: 24 hexadecimal digits.").Must(),
	"rule":          schema.Str("Rule that fired, as in config/detection.").Must(),
	"severity":      schema.Str("high, medium or low.").Must(),
	"state":         schema.Str("open or acknowledged.").Must(),
	"count":         schema.Num64("Number of events.").Must(),
	"first_seen_at": schema.Str("Time of the first event.").Must(),
	"last_seen_at":  schema.Str("Time of the last event.").Must(),
	"token_id":      schema.Str("Public name of the token, or of its grant; absent if the finding concerns no known token."),
	"role":          schema.Str("Role of the token."),
	"entity_id":     schema.Str("Vault entity that requested the token."),
	"address":       schema.Str("Address of the client."),
	"summary":       schema.Str("What was seen, and what is allowed.").Must(),
	"numbers":       schema.Object("What the rule measured, and the thresholds.").Must(),
	"evidence": schema.Slice("The uses or refusals that the rule compared: at, address (or a range), region, network.").
		Must(),
	"commands": schema.Strs("What to do, as commands to paste. The text behind # says when.").Must(),
	"response": schema.Str("What the engine did with the grant: revoked, suspended, refused (a token of another service " +
		"cannot be suspended), or failed (the engine tries again). Absent if the rule only makes findings."),
	"note":            schema.Str("Note of the operator who acknowledged the finding."),
	"acknowledged_at": schema.Str("When the finding was acknowledged."),
	"acknowledged_by": schema.Str("Who acknowledged the finding: the display name of the Vault token."),
}

// QueryFields are the fields of Query.
var QueryFields = schema.Joined(schema.BoundedPage("id", MaxPage), schema.Fields{
	"limit": schema.Num(fmt.Sprintf("Maximum number of entries to return, at most %d. Default: %[1]d. With format=jsonl: %d.",
		MaxPage, schema.MaxLines)).Query(),
	"format": schema.Format(),
	"rule":   schema.Str("List only findings of this rule.").OneOf(ruleNames()...).Query(),
	"role":   schema.Str("List only findings about tokens of this role.").Query(),
	"state":  schema.Str("List only findings in this state: open or acknowledged.").OneOf(Open, Acknowledged).Query(),
	"since":  schema.Date("List only findings with an event at this time or later: RFC 3339, or seconds since 1970.").Query(),
})

func ruleNames() (names []any) {
	for _, r := range Rules {
		names = append(names, string(r.Rule))
	}
	return names
}

// ListAnswer are the members of a page of findings.
var ListAnswer = schema.Joined(schema.List("id"), schema.Fields{
	"key_info": schema.Object("Answer of findings/:id for each id."),
})
