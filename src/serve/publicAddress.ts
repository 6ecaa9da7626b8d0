/**
 * Which IP addresses belong to the public internet. Knows nothing of names or requests.
 * Source: IANA's special-purpose address registries, as `ipaddr.js` names them.
 */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** IPv6 addresses assigned to the public internet lie in 2000::/3. */
const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3');

/**
 * Whether `address` (IPv4 in four decimal parts, or IPv6) is a public one: neither private, loopback, link-local
 * (where cloud machines keep their credentials), multicast or reserved, nor an IPv6 address that carries an IPv4
 * one (mapped, 6to4, Teredo, NAT64). An IPv4-mapped address is judged as the IPv4 address it is.
 */
export function isPublicAddress(address: string): boolean {
  if (isIP(address) === 4) return ipaddr.IPv4.parse(address).range() === 'unicast';
  // The URL parser writes an IPv4 address within an IPv6 one as what the network sees; a zone is no URL.
  const url = `http://[${address}]/`;
  if (isIP(address) !== 6 || !URL.canParse(url)) return false;
  const parsed = ipaddr.IPv6.parse(new URL(url).hostname.slice(1, -1));
  if (parsed.isIPv4MappedAddress()) return parsed.toIPv4Address().range() === 'unicast';
  return parsed.range() === 'unicast' && parsed.match(GLOBAL_UNICAST);
}
