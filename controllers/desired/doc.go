// Package desired says what an export needs to exist in the cluster. Its
// functions are pure: an NBDExport and what was observed go in, the
// configuration to apply comes out.
package desired
