// Package identity owns who belongs to a cluster: the cluster itself, its nodes, herds with
// their quotas, join tokens and API keys. It owns their tables and commands in Barn, below
//
//	/cluster            Cluster
//	/cluster/prefixes   the number of the next node's /64
//	/nodes/<name>       Node, the admission record
//	/revoked/<key>      Revocation, by fingerprint of a key
//	/herds/<name>       Herd
//	/tokens/<id>        Token
//	/keys/<id>          Key
//	/machines/<id>      Machine, by MAC address or UUID: what node a machine boots as
//	/pending/<mac>      Machine that asked to be booted and is not admitted
//
// It promises: a token admits one node, the one it is bound to, in the same entry that
// burns it; of a machine that boots from the network at most one token is good at a time, and
// those that are not admitted are remembered in bounded number and for bounded time; a node's key is the one of its record, and a revoked one is refused for ever;
// of tokens and API keys only a hash is stored.
//
// Reads take a Reader, which a barn.View and a barn.Tx both are, so that handlers of other
// owners can look up a herd or a node in their own command. The package authenticates no
// connection and authorizes nobody: that is the API server's.
package identity
