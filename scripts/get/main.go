// Command get sends a GET request with a token, on machines without curl. get prints the status and the answer, and fails
// if the status is not 200.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: get URL SCHEME TOKEN")
		os.Exit(2)
	}
	if err := get(os.Args[1], os.Args[2]+" "+os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "*", err)
		os.Exit(1)
	}
}

func get(url, authorization string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", authorization)
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	fmt.Printf("%s: %s...\n", resp.Status, body)
	return nil
}
