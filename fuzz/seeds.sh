#!/usr/bin/env bash
# Makes the seeds that are certificates anew: seeds/ca.der, corpus/certificate/ and corpus/pem/. Keys are thrown away.
# Each file of corpus/certificate/ is what a server sends: its own certificate, then others, DER after DER.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
mkdir -p seeds corpus/certificate corpus/pem

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$1.key" 2>/dev/null; }
# issue NAME ISSUER EXTENSIONS [DAYS]: a certificate with a key of its own, unless there is one.
issue() {
    [ -e "$work/$1.key" ] || key "$1"
    printf '%b' "$3" > "$work/ext"
    openssl req -new -key "$work/$1.key" -subj "/CN=$1" |
        openssl x509 -req -CA "$work/$2.pem" -CAkey "$work/$2.key" -days "${4:-36500}" -out "$work/$1.pem" \
            ${3:+-extfile "$work/ext"} 2>/dev/null
}
self_signed() {
    key "$1"
    openssl req -x509 -new -key "$work/$1.key" -subj "/CN=$1" -days 36500 -out "$work/$1.pem" "${@:2}"
}
chain() {
    for one in "${@:2}"; do openssl x509 -in "$work/$one.pem" -outform DER; done > "corpus/certificate/$1"
}
name='subjectAltName=DNS:a.example'

self_signed ca -addext keyUsage=keyCertSign
openssl x509 -in "$work/ca.pem" -outform DER -out seeds/ca.der
issue leaf ca "$name\nextendedKeyUsage=serverAuth\n"
issue middle ca 'basicConstraints=critical,CA:TRUE\nnameConstraints=permitted;DNS:a.example\n'
issue below middle "$name\n"
issue v1 ca ''
issue expired ca "$name\n" 1
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$work/rsa.key" 2>/dev/null
issue rsa ca "$name\n"
openssl genpkey -algorithm ED25519 -out "$work/ed25519.key"
issue ed25519 ca "$name\n"
issue names ca "subjectAltName=DNS:*.example,URI:spiffe://a/b,IP:10.0.0.1,IP:fd00::1,email:a@b,RID:1.2.3,dirName:d\n[d]\nCN=x\n"
issue client ca "$name\nextendedKeyUsage=clientAuth\n"
self_signed pinned -addext "$name" -addext extendedKeyUsage=serverAuth

for one in leaf v1 expired rsa ed25519 names client pinned; do chain "$one" "$one"; done
chain chain below middle
chain loop below middle below middle middle

cp "$work/ca.pem" corpus/pem/ca
cat "$work/ca.pem" "$work/pinned.pem" "$work/ca.pem" > corpus/pem/bundle
key other
{ echo '# A comment: Zürich' | iconv -t latin1; cat "$work/other.key"; sed 's/$/\r/' "$work/leaf.pem"; } > corpus/pem/mixed
{ head -c 300 "$work/ca.pem"; cat "$work/leaf.pem"; } > corpus/pem/cut
openssl x509 -in "$work/leaf.pem" -text > corpus/pem/text
tr -d '\n' < "$work/ca.pem" > corpus/pem/one-line
