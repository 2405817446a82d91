package daemon

// Start is Main with its arguments and streams given.
var Start = start
