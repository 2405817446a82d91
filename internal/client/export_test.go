package client

import (
	"google.golang.org/grpc"

	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// Through returns a client of whoever is at the other end of a connection.
func Through(conn *grpc.ClientConn) *Client {
	return &Client{conn: conn, runs: pb.NewRunsClient(conn), models: pb.NewModelsClient(conn), blobs: pb.NewBlobsClient(conn)}
}

// Answered is what calls of one message each way go through, and Streamed what streams do.
var (
	Answered = answered
	Streamed = streamed
)

// Refuse has the attested channel tell of a refusal.
func (c *Client) Refuse(r transport.Refusal) { c.refuse(r) }
