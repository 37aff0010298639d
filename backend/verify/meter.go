package verify

import (
	"time"

	"github.com/vault-apitoken/vault-plugin-secrets-apitoken/backend/access"
)

// meter counts the uses of a token. Facts that are learned again keep the meter of the token.
type meter struct {
	rate gcra
}

// meterOf returns the meter of a token: that of earlier facts if there are any. Nil: nothing is to be counted.
func (v *impl) meterOf(f *facts, before *facts) *meter {
	if before != nil && before.meter != nil {
		return before.meter
	}
	if f.terms.rate == (rate{}) {
		return nil
	}
	return new(meter)
}

// count counts a use that is allowed but for the rate.
func (v *impl) count(f *facts, _ *Use, now time.Time, d *Decision) {
	if f.terms.rate == (rate{}) || f.meter == nil {
		return
	}
	r := f.terms.rate
	if v.config.Share != nil {
		r = r.divided(v.config.Share())
	}
	left, retry, ok := f.meter.rate.take(r, now)
	d.Limit = &RateStatus{Limit: r.count, Remaining: left, Window: r.window, Reset: f.meter.rate.reset(now)}
	if !ok {
		d.Reason, d.RetryAfter, d.Detail = RateLimited, retry, "the token was used more often than the rate_limit of its role allows"
	}
}

// refused counts a refused use.
func (m *meter) refused(access.Reason) {}
