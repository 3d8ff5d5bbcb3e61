#!/bin/sh
# Makes a certificate for development into a folder:
#   make-dev-cert.sh FOLDER [NAME …]
# for localhost, 127.0.0.1, ::1 and further names: fullchain.pem and privkey.pem for nginx, ca.pem for clients to trust
# (curl --cacert ca.pem). The key of that authority is thrown away: nobody can make another certificate with it.
set -eu

if [ $# -lt 1 ]; then
    echo "usage: make-dev-cert.sh FOLDER [NAME ...]" >&2
    exit 2
fi
folder=$1
shift
for file in fullchain.pem privkey.pem ca.pem; do
    if [ -e "$folder/$file" ]; then
        echo "$folder/$file is there already: remove it first, or choose another folder." >&2
        exit 1
    fi
done

names=DNS:localhost,IP:127.0.0.1,IP:::1
for name in "$@"; do
    names=$names,DNS:$name
done

mkdir -p "$folder"
umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha256 -nodes -days 90 \
    -subj "/CN=asr-service development authority" -keyout "$work/ca.key" -out "$work/ca.pem" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign" 2>"$work/log" ||
    { cat "$work/log" >&2 && exit 1; }
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha256 -nodes -subj "/CN=localhost" \
    -keyout "$work/privkey.pem" -out "$work/request" 2>"$work/log" || { cat "$work/log" >&2 && exit 1; }
cat >"$work/extensions" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = $names
END
openssl x509 -req -in "$work/request" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -sha256 -days 90 \
    -extfile "$work/extensions" -out "$work/fullchain.pem" 2>"$work/log" || { cat "$work/log" >&2 && exit 1; }

chmod 644 "$work/ca.pem" "$work/fullchain.pem"
mv "$work/ca.pem" "$work/fullchain.pem" "$work/privkey.pem" "$folder"
echo "Wrote fullchain.pem, privkey.pem and ca.pem to $folder, good for 90 days."
