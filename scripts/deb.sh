#!/usr/bin/env bash
# Makes the Debian package from what `make install` puts into a folder: deb.sh OUT. `make deb` calls it. Without root and debhelper;
# dpkg-dev's own tools find what the programs need.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${1:?usage: deb.sh OUT}" && cd "$1" && pwd)
for tool in dpkg-deb dpkg-shlibdeps strip; do
    command -v "$tool" >/dev/null || { echo "deb: $tool is missing; apt-get install dpkg-dev binutils" >&2; exit 1; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/cairn-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT
umask 022
root=$work/root
make --no-print-directory --silent install DESTDIR="$root" PREFIX=/usr SYSCONFDIR=/etc

version=$("$root/usr/bin/cairnd" --version | awk '{print $2}')
architecture=$(dpkg --print-architecture)
# The same commit gives the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root"/usr/bin/*
# Where Debian looks: beside those of its own packages, and not in what is the administrator's.
mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
find "$root/usr/share/man" -type f -exec gzip -9n {} +
for page in "$root"/usr/share/man/man8/cairnd.socket.8.gz "$root"/usr/share/man/man8/cairnd@.service.8.gz; do
    ln -sf cairnd.service.8.gz "$page"
done

documentation=$root/usr/share/doc/cairn
printf 'cairn (%s) unstable; urgency=medium\n\n  * %s\n\n -- Cairn maintainers <cairn@localhost>  %s\n' "$version" \
    "Built from the source repository." "$(LC_ALL=C date -R -u -d "@$SOURCE_DATE_EPOCH")" | gzip -9n > "$documentation/changelog.gz"
swift=$(dirname "$(dirname "$(readlink -f "$(command -v swift || echo /usr/bin/swift)")")")/share/swift/LICENSE.txt
argument_parser=.build/checkouts/swift-argument-parser/LICENSE.txt
yams=.build/checkouts/Yams/LICENSE
for text in "$swift" "$argument_parser" "$yams"; do
    test -e "$text" || { echo "deb: no license text '$text', and a package must have it: put swift on the PATH and run 'swift package resolve'" >&2; exit 1; }
done
{
    printf 'Cairn: the source repository states no license; ask its owners before you pass the package on.\n'
    printf '\nLinked into both programs:\n\n==== Swift, its runtime and core libraries\n\n'; cat "$swift"
    printf '\n==== swift-argument-parser\n\n'; cat "$argument_parser"
    printf '\n==== Yams, with LibYAML\n\n'; cat "$yams"
} > "$documentation/copyright"

mkdir -p "$root/DEBIAN" "$work/debian"
printf 'Source: cairn\n\nPackage: cairn\nArchitecture: any\n' > "$work/debian/control"
needed=$(cd "$work" && dpkg-shlibdeps -O -eroot/usr/bin/cairnd -eroot/usr/bin/cairn | sed -n 's/^shlibs:Depends=//p')
cat > "$root/DEBIAN/control" <<EOF
Package: cairn
Version: $version
Architecture: $architecture
Maintainer: Cairn maintainers <cairn@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $needed, systemd, init-system-helpers (>= 1.54)
Section: admin
Priority: optional
Description: asynchronous multi-level checkpoints of training state
 cairnd is a daemon for nodes that train large models. It copies each rank's
 state into pinned memory while training goes on, writes it to the node's
 drives and to the parallel filesystem, commits a step once every rank of the
 job is on disk, and serves restores from the nearest whole copy.
 .
 This package has the daemon with its units, and the tool cairn. Trainers use
 the Python package cairn-checkpoint.
EOF
echo /etc/cairn/cairnd.yaml > "$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 0755 "scripts/debian/$script" "$root/DEBIAN/"; done
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) > "$root/DEBIAN/md5sums"

package=$out/cairn_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
