package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// checkTexts reads what an adapter says when something fails, a line each, NAME, code and text between
// tabs, and complains of what etcd's own client would not take for the same error. What etcd leaves
// without a code is in no table of the client's: it is compared by the cases.
func checkTexts(in io.Reader) error {
	lines := bufio.NewScanner(in)
	checked, wrong := 0, 0
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), "\t", 3)
		if len(parts) != 3 {
			return fmt.Errorf("not a name, a code and a text: %q", lines.Text())
		}
		name, text := parts[0], parts[2]
		var code codes.Code
		if err := code.UnmarshalJSON([]byte(parts[1])); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if code == codes.Unknown || code == codes.Unimplemented {
			continue
		}
		checked++
		if etcds, ok := codeOf(status.Error(code, text)); !ok {
			fmt.Printf("%s: etcd says %q nowhere\n", name, text)
			wrong++
		} else if etcds != code {
			fmt.Printf("%s: %q has the code %v in etcd, not %v\n", name, text, etcds, code)
			wrong++
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	fmt.Printf("texts: %d checked, %d wrong\n", checked, wrong)
	if wrong > 0 || checked == 0 {
		return fmt.Errorf("%d of %d texts are not etcd's", wrong, checked)
	}
	return nil
}

// notTold are errors that etcd's server knows and its client has no value for.
var notTold = []error{
	rpctypes.ErrGRPCInvalidClientAPIVersion,
}

// codeOf is the code that etcd gives to the text of an error.
func codeOf(said error) (codes.Code, bool) {
	if known, ok := rpctypes.Error(said).(rpctypes.EtcdError); ok {
		return known.Code(), true
	}
	for _, known := range notTold {
		if rpctypes.ErrorDesc(known) == rpctypes.ErrorDesc(said) {
			return status.Code(known), true
		}
	}
	return codes.OK, false
}
