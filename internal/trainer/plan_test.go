package trainer_test

import (
	"time"

	"consilium.dev/internal/entry"
)

const minute = entry.Duration(time.Minute)
