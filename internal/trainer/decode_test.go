package trainer_test

import (
	"strings"
	"testing"

	"consilium.dev/internal/trainer"
)

func TestDecodePlan(t *testing.T) {
	const whole = `{"name":"p","rounds":2}`
	p, err := trainer.DecodePlan([]byte(whole + "\n"))
	if err != nil || p.Name != "p" || p.Rounds != 2 {
		t.Errorf("DecodePlan = %+v, %v", p, err)
	}
	for name, test := range map[string]struct{ text, want string }{
		"empty":       {"", "plan: EOF"},
		"cut off":     {whole[:len(whole)-1], "plan: unexpected EOF"},
		"unknown key": {`{"nmae":"p"}`, `plan: json: unknown field "nmae"`},
		"two plans":   {whole + whole, "plan: something follows the plan"},
		"large":       {`{"note":"` + strings.Repeat("x", 256<<10) + `"}`, "plan has more than 262144 bytes"},
	} {
		if _, err := trainer.DecodePlan([]byte(test.text)); err == nil || err.Error() != test.want {
			t.Errorf("%s: DecodePlan = %v, want %s", name, err, test.want)
		}
	}
}
