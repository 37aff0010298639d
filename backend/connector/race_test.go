//go:build race

package connector

// raceDetector: the race detector allocates memory of its own.
const raceDetector = true
