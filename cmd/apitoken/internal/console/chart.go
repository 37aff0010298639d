package console

// Sizes of the charts, in units of their view boxes.
const (
	chartWidth   = 560
	columnHeight = 120 // of the longest column
	columnBottom = 24  // for the labels below
	columnTop    = 16  // for the number of the longest column
	rowHeight    = 26
	rowLabels    = 190 // width of the labels at the left
	rowNumbers   = 70  // width of the numbers at the right
	longestLabel = 24  // characters
)

// chart is a bar chart in SVG, which templates/parts.html writes. The colours come from the style sheet by class: the page has no
// inline style, and follows light and dark. A table beside the chart has the same numbers for those who do not see the chart.
type chart struct {
	ID, Title     string
	Class         string // by-severity: the colours of severities
	Width, Height int
	Series        []string // names of the values of a column
	Bars          []bar
	Texts         []text
	Rows          []column // the numbers
	Empty         bool     // all numbers are zero
}

// bar is a rectangle.
type bar struct {
	X, Y, W, H float64
	Series     int
}

// text is a label.
type text struct {
	X, Y   float64
	Anchor string // start, middle, end
	Text   string
}

// column is a label with a number for each series.
type column struct {
	Label  string
	Values []int64
}

// label is a label with a number.
type label struct {
	Label string
	Value int64
}

// columnsChart returns a chart of stacked columns.
func columnsChart(id, title string, series []string, columns []column) *chart {
	c := &chart{
		ID: id, Title: title, Width: chartWidth, Height: columnTop + columnHeight + columnBottom, Series: series, Rows: columns,
	}
	longest := int64(0)
	for _, one := range columns {
		longest = max(longest, sum(one.Values))
	}
	c.Empty = longest == 0
	step := float64(chartWidth) / float64(max(len(columns), 1))
	for i, one := range columns {
		x, y := step*float64(i), float64(columnTop+columnHeight)
		for j, n := range one.Values {
			if n == 0 {
				continue
			}
			h := float64(columnHeight) * float64(n) / float64(longest)
			y -= h
			c.Bars = append(c.Bars, bar{X: x + step*0.15, Y: y, W: step * 0.7, H: h, Series: j})
		}
		if total := sum(one.Values); total > 0 {
			c.Texts = append(c.Texts, text{X: x + step/2, Y: y - 4, Anchor: "middle", Text: short(total)})
		}
		at := text{X: x + step/2, Y: float64(c.Height) - 6, Anchor: "middle", Text: one.Label}
		if i == len(columns)-1 {
			at.X, at.Anchor = chartWidth, "end"
		}
		if i%2 == 1 || len(columns) < 8 { // more labels do not fit
			c.Texts = append(c.Texts, at)
		}
	}
	return c
}

// rowsChart returns a chart of horizontal bars.
func rowsChart(id, title string, labels []label) *chart {
	c := &chart{ID: id, Title: title, Width: chartWidth, Height: max(len(labels), 1) * rowHeight, Series: []string{"tokens"}}
	longest := int64(0)
	for _, one := range labels {
		longest = max(longest, one.Value)
	}
	c.Empty = longest == 0
	for i, one := range labels {
		y := float64(i * rowHeight)
		w := 0.0
		if longest > 0 {
			w = float64(chartWidth-rowLabels-rowNumbers) * float64(one.Value) / float64(longest)
		}
		c.Bars = append(c.Bars, bar{X: rowLabels, Y: y + 5, W: w, H: rowHeight - 10})
		c.Texts = append(c.Texts,
			text{X: rowLabels - 8, Y: y + 18, Anchor: "end", Text: clipRunes(one.Label, longestLabel)},
			text{X: rowLabels + w + 6, Y: y + 18, Anchor: "start", Text: short(one.Value)})
		c.Rows = append(c.Rows, column{Label: one.Label, Values: []int64{one.Value}})
	}
	return c
}

func sum(values []int64) (total int64) {
	for _, n := range values {
		total += n
	}
	return total
}

// short writes a number in few characters: 1.2M.
func short(n int64) string {
	switch {
	case n >= 10_000_000:
		return count(n/1_000_000) + "M"
	case n >= 1_000_000:
		return count(n/1_000_000) + "." + count(n/100_000%10) + "M"
	case n >= 10_000:
		return count(n/1000) + "k"
	default:
		return count(n)
	}
}

func clipRunes(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}
