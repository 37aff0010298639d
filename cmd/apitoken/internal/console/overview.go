package console

import (
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	apiPage      = 1000 // the most rows that the engine returns at once
	sampleSize   = 500  // tokens in the charts of issues and uses
	chartDays    = 14
	recentOnPage = 8
)

// summary is the answer of report/summary.
type summary struct {
	AsOf        instant `json:"as_of"`
	Roles       int64   `json:"roles"`
	Connections int64   `json:"connections"`
	StaticRoles int64   `json:"static_roles"`
	Live        int64   `json:"live_tokens"`
	Opaque      int64   `json:"live_opaque"`
	JWT         int64   `json:"live_jwt"`
	OfServices  int64   `json:"live_of_services"`
	Issued      int64   `json:"issued_last_day"`
	Expire      int64   `json:"expire_next_day"`
	Used        int64   `json:"used_last_day"`
	NeverUsed   int64   `json:"never_used"`
	Stale       int64   `json:"stale_tokens"`
	Uses        int64   `json:"uses"`
	Refusals    int64   `json:"refusals"`
	Queue       int64   `json:"revocation_queue"`
	Unreadable  int64   `json:"unreadable_entries"`
	Unowned     int64   `json:"unowned"`
	Overdue     int64   `json:"overdue_reviews"`
	Privileged  int64   `json:"privileged_roles"`
	TopRoles    []struct {
		Role string `json:"role"`
		Live int64  `json:"live_tokens"`
	} `json:"top_roles"`
}

// overviewContent is the data of the first page.
type overviewContent struct {
	Summary  part[*summaryContent]
	Findings part[*findingsChart]
	Tokens   part[*tokensChart]
}

type summaryContent struct {
	*summary
	Kinds, TopRoles *chart
}

type findingsChart struct {
	Recent []findingRow
	Open   int
	Chart  *chart
	More   bool // there are more findings than the chart counts
}

type tokensChart struct {
	Issued *chart
	Used   *chart
	Sample int64 // number of tokens in the charts
	More   bool  // there are more tokens
}

func (s *Server) overview(v *view) (any, error) {
	o := &overviewContent{}
	var group errgroup.Group
	group.Go(func() error {
		a, err := read[*summary](v.ctx, v.caller, "report/summary", nil)
		if err != nil {
			o.Summary = partOf[*summaryContent](nil, err)
			return nil
		}
		o.Summary = partOf(summarized(a.Data), nil)
		return nil
	})
	group.Go(func() error {
		f, err := s.recentFindings(v)
		o.Findings = partOf(f, err)
		return nil
	})
	group.Go(func() error {
		t, err := s.sampledTokens(v)
		o.Tokens = partOf(t, err)
		return nil
	})
	return o, group.Wait()
}

func summarized(sum *summary) *summaryContent {
	if sum == nil {
		sum = &summary{}
	}
	kinds := rowsChart("kinds", "Live tokens by kind", []label{
		{"opaque", sum.Opaque}, {"JWT", sum.JWT}, {"of services", sum.OfServices},
	})
	var top []label
	for _, r := range sum.TopRoles {
		top = append(top, label{r.Role, r.Live})
	}
	return &summaryContent{summary: sum, Kinds: kinds, TopRoles: rowsChart("roles", "Roles with the most live tokens", top)}
}

// recentFindings returns the newest open findings, and counts the findings of each day.
func (s *Server) recentFindings(v *view) (*findingsChart, error) {
	a, err := list[findingRow](v.ctx, v.caller, "findings", url.Values{"limit": {strconv.Itoa(apiPage)}})
	if err != nil {
		return nil, err
	}
	f := &findingsChart{More: len(a.Warnings) > 0}
	days := newDays(s.Now(), "high", "medium", "low")
	for _, id := range a.Data.Keys {
		row := a.Data.Info[id]
		days.add(row.FirstSeenAt.Time, row.Severity, 1)
		if row.State != "open" {
			continue
		}
		f.Open++
		if len(f.Recent) < recentOnPage {
			f.Recent = append(f.Recent, row)
		}
	}
	f.Chart = days.chart("findings", "New findings a day")
	f.Chart.Class = "by-severity"
	return f, nil
}

// sampledTokens counts issues and uses by day. The IDs of tokens are random, so that the first tokens by ID are a fair sample.
func (s *Server) sampledTokens(v *view) (*tokensChart, error) {
	rows, more, err := tokenPage(v.ctx, v.caller, url.Values{"limit": {strconv.Itoa(sampleSize)}})
	if err != nil {
		return nil, err
	}
	issued, used := newDays(s.Now(), "used", "never used"), newDays(s.Now(), "without refusals", "with refusals")
	for i := range rows {
		row := &rows[i]
		series := "used"
		if row.Uses == 0 {
			series = "never used"
		}
		issued.add(row.IssuedAt.Time, series, 1)
		series = "without refusals"
		if row.Refused > 0 {
			series = "with refusals"
		}
		used.add(row.LastUsedAt.Time, series, 1)
	}
	return &tokensChart{
		Issued: issued.chart("issued", "Tokens by day of issue"),
		Used:   used.chart("used", "Tokens by day of last use"),
		Sample: int64(len(rows)), More: more,
	}, nil
}

// days counts things of the last days in series.
type days struct {
	first  time.Time // midnight in UTC
	series []string
	counts [chartDays]map[string]int64
}

func newDays(now time.Time, series ...string) *days {
	d := &days{series: series}
	d.first = now.UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-chartDays)
	for i := range d.counts {
		d.counts[i] = map[string]int64{}
	}
	return d
}

func (d *days) add(at time.Time, series string, n int64) {
	since := at.Sub(d.first)
	if at.IsZero() || since < 0 {
		return
	}
	if day := int(since / (24 * time.Hour)); day < chartDays {
		d.counts[day][series] += n
	}
}

func (d *days) chart(id, title string) *chart {
	columns := make([]column, chartDays)
	for i := range columns {
		columns[i].Label = d.first.AddDate(0, 0, i).Format("Jan 2")
		for _, series := range d.series {
			columns[i].Values = append(columns[i].Values, d.counts[i][series])
		}
	}
	return columnsChart(id, title, d.series, columns)
}
