package blob

// ReadHeader is the decoder of what storage hands us first.
var ReadHeader = readHeader
