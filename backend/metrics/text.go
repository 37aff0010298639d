package metrics

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// ContentType is the media type of Text.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Emit takes a value of a metric, with the values of the metric's labels.
type Emit func(m *Metric, value float64, labels ...string)

// collector implements prometheus.Collector for one scrape.
type collector struct {
	counters *Counters
	read     func(Emit)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range defined {
		descs <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(values chan<- prometheus.Metric) {
	emit := func(m *Metric, value float64, labels ...string) {
		one, err := prometheus.NewConstMetric(m.desc, m.Type, value, labels...)
		if err != nil {
			one = prometheus.NewInvalidMetric(m.desc, err) // Gather returns the error
		}
		values <- one
	}
	c.counters.emit(emit)
	c.read(emit)
}

// Text returns the counts, and the values that read emits, in the text format of Prometheus. The metrics are in the order of
// their names.
func Text(c *Counters, read func(Emit)) ([]byte, error) {
	registry := prometheus.NewPedanticRegistry() // refuses what Prometheus would refuse
	if err := registry.Register(collector{c, read}); err != nil {
		return nil, err
	}
	families, err := registry.Gather()
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

// Named is something with a name, such as a role, and its size.
type Named struct {
	Name string
	Size int
}

// Largest returns the names of at most MaxNamed of the largest things. Of several of the same size, those come first whose
// names do. The name Other is never among the names: the caller adds up all others under Other.
func Largest(all []Named) map[string]bool {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b Named) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Name, b.Name))
	})
	names := make(map[string]bool)
	for _, n := range sorted {
		if len(names) < MaxNamed && n.Name != Other {
			names[n.Name] = true
		}
	}
	return names
}
