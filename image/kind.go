package image

import "strings"

// Kind is for which machines an image is. It follows from the kernel package.
type Kind string

// The kinds.
const (
	Cloud Kind = "cloud" // virtual machines with virtio devices: small, boots fast
	Metal Kind = "metal" // any machine, boot media: drivers by device alias
)

// Kind returns what images with this kernel are for.
func (l Lock) Kind() Kind {
	if strings.Contains(l.Package, "-cloud-") {
		return Cloud
	}
	return Metal
}

// meta is the package that always depends on the newest kernel of the kind.
func (k Kind) meta() string {
	if k == Cloud {
		return "linux-image-cloud-amd64"
	}
	return "linux-image-amd64"
}

// limit is the most that kernel and initramfs may weigh together, in bytes. The cloud
// image's is a promise; the metal image's is there so that its growth is noticed.
func (k Kind) limit() int64 {
	if k == Cloud {
		return MaxCompressed
	}
	return MaxMetal
}
