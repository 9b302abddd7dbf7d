// Package controllers is the operator. It serves each NBDExport with one pod and
// one Service, ends the pod when an exit condition is met, and writes down how
// that went.
//
// A reconciliation has four steps, each in a file of its own: observe reads
// what is there, decide says what is to be done and what is to be said about it,
// apply does it, status says it. decide is pure and holds all the judgement.
//
// What has to be written down before it is done (the exit condition before the
// pod is deleted, the report before the pod is let go) needs two
// reconciliations: decide acts only on what it finds in the status. So it
// doesn't matter at which point an operator ends and the next one begins.
package controllers
