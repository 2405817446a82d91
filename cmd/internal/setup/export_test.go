package setup

// Tell is tell.
var Tell = tell
