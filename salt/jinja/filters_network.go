package jinja

import (
	"encoding/hex"
	"math/big"
	"net/netip"
	"strings"
)

// maxHosts bounds what network_hosts lists.
const maxHosts = 1 << 16

// address is Python's ip_address or ip_interface: with or without a prefix.
type address struct {
	netip.Prefix
	plain bool // without a prefix
}

func (a address) String() string {
	if a.plain {
		return a.Addr().String()
	}
	return a.Prefix.String()
}

func parseAddress(s string) (address, bool) {
	if addr, err := netip.ParseAddr(s); err == nil && (addr.Zone() == "" || addr.Is6()) {
		return address{netip.PrefixFrom(addr, addr.BitLen()), true}, true
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return address{p, false}, true
	}
	host, mask, ok := strings.Cut(s, "/")
	addr, err1 := netip.ParseAddr(host)
	m, err2 := netip.ParseAddr(mask)
	if !ok || err1 != nil || err2 != nil || !addr.Is4() || !m.Is4() {
		return address{}, false
	}
	bits := m.As4()
	n := new(big.Int).SetBytes(bits[:])
	ones := 0
	for ones < 32 && n.Bit(31-ones) == 1 {
		ones++
	}
	if n.TrailingZeroBits() < uint(32-ones) {
		return address{}, false
	}
	return address{netip.PrefixFrom(addr, ones), false}, true
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// The ranges of Python's ipaddress module that are not global.
var (
	private4  = prefixes("0.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.0.170/31", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32")
	private6  = prefixes("::1/128", "::/128", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "fc00::/7", "fe80::/10")
	reserved4 = prefixes("240.0.0.0/4")
	reserved6 = prefixes("::/8", "100::/8", "200::/7", "400::/6", "800::/5", "1000::/4", "4000::/3", "6000::/3", "8000::/3", "a000::/3", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fe00::/9")
	siteLocal = prefixes("fec0::/10")
)

func inAny(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func byVersion(a netip.Addr, four, six []netip.Prefix) bool {
	if a.Is4() {
		return inAny(a, four)
	}
	return inAny(a, six)
}

var addressOptions = map[string]func(netip.Addr) bool{
	"private":     func(a netip.Addr) bool { return byVersion(a, private4, private6) },
	"global":      func(a netip.Addr) bool { return !byVersion(a, private4, private6) },
	"link-local":  netip.Addr.IsLinkLocalUnicast,
	"loopback":    netip.Addr.IsLoopback,
	"multicast":   netip.Addr.IsMulticast,
	"reserved":    func(a netip.Addr) bool { return byVersion(a, reserved4, reserved6) },
	"site-local":  func(a netip.Addr) bool { return a.Is6() && inAny(a, siteLocal) },
	"unspecified": netip.Addr.IsUnspecified,
}

var addressAliases = map[string]string{"public": "global", "linklocal": "link-local", "ll": "link-local", "link_local": "link-local", "lo": "loopback", "sl": "site-local", "site_local": "site-local"}

// ofVersion is Salt's _is_ipv: the address as Python writes it, or false.
func ofVersion(v any, version int, options any) (string, bool) {
	s, ok := asText(v)
	if n, isInt := integer(v); isInt && n >= 0 && n < 1<<32 {
		s, ok = netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}).String(), true
	}
	if !ok {
		return "", false
	}
	a, ok := parseAddress(s)
	if !ok || (version == 4) != a.Addr().Is4() {
		return "", false
	}
	if o, ok := asText(options); ok && o != "" {
		for part := range strings.SplitSeq(o, ",") {
			name := strings.TrimSpace(part)
			if alias, ok := addressAliases[name]; ok {
				name = alias
			}
			if test, known := addressOptions[name]; known && !test(a.Addr()) {
				return "", false
			}
		}
	}
	return a.String(), true
}

// ipFilter is Salt's _ipv_filter: an address, or the addresses among a list.
func ipFilter(v any, version int, options any) any {
	if _, ok := asText(v); ok {
		if s, ok := ofVersion(v, version, options); ok {
			return s
		}
		return nil
	}
	switch v.(type) {
	case *List, Tuple, *iterator:
	default:
		return nil
	}
	items, err := iterate(v)
	if err != nil {
		return nil
	}
	out := &List{}
	for _, item := range items {
		if s, ok := ofVersion(item, version, options); ok {
			out.Items = append(out.Items, s)
		}
	}
	return out
}

func ipFilterAny(v any, version any, options any) any {
	if n, ok := integer(version); ok && n != 0 {
		return ipFilter(v, int(n), options)
	}
	if it, ok := v.(*iterator); ok {
		items, err := it.rest()
		if err != nil {
			return nil
		}
		v = &List{items}
	}
	four, six := ipFilter(v, 4, options), ipFilter(v, 6, options)
	a, ok1 := four.(*List)
	b, ok2 := six.(*List)
	if ok1 && ok2 {
		return &List{append(append([]any{}, a.Items...), b.Items...)}
	}
	if four != nil {
		return four
	}
	return six
}

var networkFilters = map[string]filterFunc{
	"is_ip":         isIP(4, 6),
	"is_ipv4":       isIP(4),
	"is_ipv6":       isIP(6),
	"ipv4":          given(func(_ *run, v any, a *Args) (any, error) { return ipFilter(v, 4, a.Take("options", nil)), nil }),
	"ipv6":          given(func(_ *run, v any, a *Args) (any, error) { return ipFilter(v, 6, a.Take("options", nil)), nil }),
	"ipaddr":        given(func(_ *run, v any, a *Args) (any, error) { return ipFilterAny(v, nil, a.Take("options", nil)), nil }),
	"ip_host":       eachAddress(func(a address) (any, error) { return a.Prefix.String(), nil }),
	"network_hosts": eachAddress(hosts),
	"network_size": eachAddress(func(a address) (any, error) {
		return normal(new(big.Int).Lsh(big.NewInt(1), uint(a.Addr().BitLen()-a.Bits()))), nil
	}),
	"filter_by_networks": given(filterByNetworks),
	"ipwrap": given(func(_ *run, v any, _ *Args) (any, error) {
		wrap := func(v any) any {
			if _, ok := ofVersion(v, 6, nil); ok {
				return "[" + Str(v) + "]"
			}
			return v
		}
		switch v.(type) {
		case *List, Tuple:
			items, err := iterate(v)
			out := &List{}
			for _, item := range items {
				out.Items = append(out.Items, wrap(item))
			}
			return out, err
		}
		return wrap(v), nil
	}),
	"mac_str_to_bytes": onString(func(s string) (any, error) {
		if len(s) == 17 {
			s = strings.ReplaceAll(s, s[2:3], "")
		}
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 6 {
			return nil, Fault("not a MAC address", "")
		}
		return Bytes(b), nil
	}),
}

func isIP(versions ...int) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		options := a.Take("options", nil)
		for _, n := range versions {
			if _, ok := ofVersion(v, n, options); ok {
				return true, nil
			}
		}
		return false, nil
	})
}

func eachAddress(f func(a address) (any, error)) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		options, version := a.Take("options", nil), a.Take("version", nil)
		found := ipFilterAny(v, version, options)
		list, many := found.(*List)
		if s, ok := found.(string); ok {
			addr, _ := parseAddress(s)
			return f(addr)
		}
		if !many || len(list.Items) == 0 {
			return nil, nil
		}
		out := &List{}
		for _, item := range list.Items {
			addr, _ := parseAddress(Str(item))
			x, err := f(addr)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, x)
		}
		return out, nil
	})
}

// hosts is ip_network(a, strict=False).hosts().
func hosts(a address) (any, error) {
	p := a.Masked()
	size := uint(p.Addr().BitLen() - p.Bits())
	if size > 16 {
		return nil, Fault("the network has too many hosts to list", "")
	}
	out := &List{}
	n := 1 << size
	addr := p.Addr()
	for i := range n {
		skip := size > 1 && (i == 0 || i == n-1 && addr.Is4())
		if !skip && len(out.Items) < maxHosts {
			out.Items = append(out.Items, addr.String())
		}
		addr = addr.Next()
	}
	return out, nil
}

func filterByNetworks(_ *run, v any, a *Args) (any, error) {
	list := a.Take("networks", nil)
	if list == nil {
		return v, nil
	}
	names, err := iterate(list)
	if err != nil {
		return nil, err
	}
	var nets []netip.Prefix
	for _, n := range names {
		p, ok := parseAddress(Str(n))
		if !ok || p.Masked() != p.Prefix {
			return nil, faultf("%s is not a network", Str(n))
		}
		nets = append(nets, p.Prefix)
	}
	keep := func(v any) (any, error) {
		items, err := iterate(v)
		out := &List{}
		for _, item := range items {
			addr, err := netip.ParseAddr(Str(item))
			if err != nil {
				return nil, faultf("%s is not an address", Str(item))
			}
			for _, n := range nets {
				if n.Contains(addr) {
					out.Items = append(out.Items, item)
				}
			}
		}
		return out, err
	}
	m, ok := v.(*Map)
	if !ok {
		return keep(v)
	}
	out := NewMap()
	for _, k := range m.keys {
		value, _ := m.At(k)
		kept, err := keep(value)
		if err != nil {
			return nil, err
		}
		out.put(k, entry{value: kept})
	}
	return out, nil
}
