package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/verify"
)

type metrics struct {
	handler   http.Handler
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	identity  *prometheus.CounterVec
	notServed prometheus.Counter
	panics    prometheus.Counter
	reloads   *prometheus.CounterVec
	loaded    prometheus.Gauge // 1: the last reload succeeded
}

// counters are the metrics of a gateway and reason.
type counters struct {
	requests  prometheus.Counter
	durations prometheus.Observer
}

func newMetrics(registry *prometheus.Registry, s *Server) *metrics {
	m := &metrics{
		handler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apitoken_authz_requests_total", Help: "Requests that gateways asked about. The reason is ok if a request may pass.",
		}, []string{"gateway", "reason"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apitoken_authz_decision_seconds", Help: "Time that decisions took.",
			Buckets: []float64{.00001, .000025, .00005, .0001, .00025, .0005, .001, .005, .025, .1, .5, 2.5},
		}, []string{"gateway"}),
		identity: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apitoken_authz_client_identity_headers_total", Help: "Identity headers that clients sent, in any spelling.",
		}, []string{"gateway"}),
		notServed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apitoken_authz_not_served_total", Help: "Requests to paths of no gateway that the configuration lists.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "apitoken_authz_panics_total", Help: "Requests that were refused since a handler failed.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apitoken_authz_config_reloads_total", Help: "Reloads of the configuration.",
		}, []string{"result"}),
		loaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "apitoken_authz_config_last_reload_successful",
			Help: "1 if the last reload succeeded, 0 if the rules of before are in use.",
		}),
	}
	m.loaded.Set(1)
	registry.MustRegister(m.requests, m.durations, m.identity, m.notServed, m.panics, m.reloads, m.loaded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func(verify.State) float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "apitoken_authz_" + name, Help: help},
			func() float64 { return value(s.checker.State()) }))
	}
	gauge("ready", "1 if every kind of token can be checked.", func(st verify.State) float64 {
		if st.Ready {
			return 1
		}
		return 0
	})
	gauge("feed_age_seconds", "Time since the feed was read.", func(st verify.State) float64 { return st.FeedAge.Seconds() })
	gauge("keys_age_seconds", "Time since the keys were read.", func(st verify.State) float64 { return st.KeysAge.Seconds() })
	gauge("tokens", "Tokens kept in memory.", func(st verify.State) float64 { return float64(st.Tokens) })
	gauge("unknown_tokens", "Refused texts kept in memory.", func(st verify.State) float64 { return float64(st.Unknown) })
	gauge("revoked_grants", "Revoked grants remembered.", func(st verify.State) float64 { return float64(st.Revoked) })
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "apitoken_authz_rules", Help: "Rules in use."},
		func() float64 { return float64(s.rules.Load().Len()) }))
	counter := func(name, help string, value func(verify.State) float64) {
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "apitoken_authz_" + name, Help: help},
			func() float64 { return value(s.checker.State()) }))
	}
	counter("introspections_total", "Tokens that the engine was asked about.",
		func(st verify.State) float64 { return float64(st.Asked) })
	counter("key_reads_total", "Reads of the keys.", func(st verify.State) float64 { return float64(st.Fetched) })
	counter("unasked_total", "Tokens refused without a question to the engine, since there were too many unknown ones.",
		func(st verify.State) float64 { return float64(st.Limited) })
	return m
}

// reasonAllowed stands in metrics and logs for a request that may pass.
const reasonAllowed = "ok"

// of returns the metrics of a gateway and reason. Reasons are a small set of constants: the label stays bounded.
func (m *metrics) of(gateway, reason string) counters {
	return counters{m.requests.WithLabelValues(gateway, reason), m.durations.WithLabelValues(gateway)}
}

func (c counters) count(took time.Duration) {
	c.requests.Inc()
	c.durations.Observe(took.Seconds())
}
