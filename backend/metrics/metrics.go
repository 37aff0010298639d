// Package metrics counts what the process of a mount does, and renders the counts and the numbers of the mount for Prometheus.
// Counting costs an atomic addition, and allocates nothing. The counts are in memory: a new process begins at zero.
package metrics

import "github.com/prometheus/client_golang/prometheus"

// MaxNamed is the maximum number of roles, and of connections, that a metric names. A metric adds up the others under Other.
const MaxNamed = 50

// Other is the value of a label that stands for all values that a metric does not name.
const Other = "other"

// Metric is a metric of the engine.
type Metric struct {
	Name   string
	Type   prometheus.ValueType // CounterValue or GaugeValue
	Help   string
	Labels []string
	desc   *prometheus.Desc
}

// defined are all metrics.
var defined []*Metric

// All returns all metrics.
func All() []*Metric { return defined }

func counter(name, help string, labels ...string) *Metric {
	return define(name, prometheus.CounterValue, help, labels)
}

func gauge(name, help string, labels ...string) *Metric {
	return define(name, prometheus.GaugeValue, help, labels)
}

func define(name string, t prometheus.ValueType, help string, labels []string) *Metric {
	m := &Metric{Name: "apitoken_" + name, Type: t, Help: help, Labels: labels}
	m.desc = prometheus.NewDesc(m.Name, m.Help, m.Labels, nil)
	defined = append(defined, m)
	return m
}

// What the process has done since its start.
var (
	issued      = counter("tokens_issued_total", "Tokens that creds has issued, by kind: opaque, jwt or service.", "kind")
	issueErrors = counter("issue_errors_total", "Requests of creds that issued no token, by kind and result: refused or failed.",
		"kind", "result")
	renewals    = counter("renewals_total", "Leases that were renewed, by kind: native or service.", "kind")
	refreshes   = counter("refreshes_total", "Pairs of tokens that a refresh token was used for.")
	exchanges   = counter("exchanges_total", "Tokens that were exchanged for narrower tokens.")
	revocations = counter("revocations_total", "Revocations of tokens, by cause.", "cause")
	suspensions = counter("suspensions_total", "Suspensions of tokens and entities, by cause.", "cause")
	decisions   = counter("decisions_total", "Decisions on uses of tokens, by source and reason. The reason of a good use is ok.",
		"source", "reason")
	usageReports = counter("usage_reports_total", "Batches that verifiers have reported, by result: counted or duplicate.", "result")
	rotations    = counter("rotations_total", "Rotations of connections' credentials and of static roles, by kind and result.",
		"kind", "result")
	rotated = gauge("rotation_timestamp_seconds",
		"Time of the last rotation by the process, by kind and result; 0 if there was none.", "kind", "result")
	feedReads = counter("feed_reads_total", "Reads of the feed, by result: ok, start or resync.", "result")
	feedLag   = gauge("feed_lag_events",
		"Highest number of events that a reader of the feed was behind, within the last one to two minutes.")
	started = gauge("start_timestamp_seconds", "Start of the mount in the process.")
)

// What the mount is.
var (
	Info   = gauge("info", "1, with the version of the engine.", "version")
	Active = gauge("active", "1 if the node may write storage, 0 on a standby.")
	Memory = gauge("process_memory_bytes", "Memory of the plugin's process, which may serve several mounts.")

	RoleTokens    = gauge("role_tokens", "Live tokens of the inventory, by role.", "role")
	KindTokens    = gauge("tokens", "Live tokens of the inventory, by kind: opaque, jwt or service.", "kind")
	StaleTokens   = gauge("stale_tokens", "Live tokens that report/stale lists by default.")
	NeverUsed     = gauge("never_used_tokens", "Live native tokens without a known use.")
	Unowned       = gauge("unowned_entries", "Roles, connections and static roles without an owner.")
	Overdue       = gauge("overdue_reviews", "Roles, connections and static roles whose review is overdue.")
	Privileged    = gauge("privileged_roles", "Roles with scopes that match privileged_scopes.")
	Counted       = gauge("tokens_counted_timestamp_seconds", "Time at which the tokens and reviews were counted.")
	QueueTokens   = gauge("revocation_queue_tokens", "Tokens that wait for their revocation at the service.", "connection")
	QueueNever    = gauge("revocation_queue_unrevocable_tokens", "Tokens of the queue that the service cannot revoke.", "connection")
	QueueAge      = gauge("revocation_queue_age_seconds", "How long the oldest token of the queue has waited.", "connection")
	QueueFailing  = gauge("revocation_queue_failing", "1 if the last revocation at the service failed.", "connection")
	RootUnsettled = gauge("unsettled_root_rotations", "Connections whose last rotation of the credential is not complete.")

	StaticFailing = gauge("static_roles_failing", "Static roles whose last rotation failed.")
	StaticOverdue = gauge("static_roles_overdue_seconds", "How long the rotation of the most overdue static role has been due.")

	OpenFindings = gauge("open_findings", "Findings of misuse that nobody has acknowledged, by rule and severity.",
		"rule", "severity")
	Findings     = gauge("findings", "All findings of misuse in memory.")
	ResponsesDue = gauge("finding_responses_pending", "Findings whose response, suspend or revoke, is not done.")
	ResponsesAge = gauge("finding_responses_age_seconds",
		"Time since the first event of the oldest finding whose response is not done.")
	ResponsesFailed = gauge("finding_responses_failed", "Findings whose last response failed.")

	AlertQueue   = gauge("alert_queue_notices", "Notices about findings that wait for a delivery by an alert.")
	AlertAge     = gauge("alert_queue_age_seconds", "How long the oldest notice of the queue of alerts has waited.")
	AlertDropped = counter("alert_notices_dropped_total", "Notices that the queue of alerts gave up, once for each alert.")

	FeedEvents = counter("feed_events_total", "Events of the feed since the beginning of the epoch.")
	FeedEpoch  = gauge("feed_epoch_timestamp_seconds", "Beginning of the feed's epoch.")

	Reporters = gauge("usage_reporters", "Verifiers that have reported usage within five minutes.")

	StorageEntries = gauge("storage_entries", "Entries in storage, by kind.", "kind")
	StorageBytes   = gauge("storage_bytes", "Size of entries in storage, by kind.", "kind")
	StorageWrites  = counter("storage_writes_total", "Writes and deletes of entries in storage, by result: ok or error.", "result")
	StorageWritten = counter("storage_written_bytes_total", "Size of the entries that were written to storage.")
	Unreadable     = gauge("unreadable_entries", "Entries in storage that cannot be read.")
	Records        = gauge("records", "Records in memory, by kind.", "kind")
)
