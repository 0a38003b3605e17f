#!/bin/sh
# A museum's folder (masters of 16 bits, CMYK, scans of several pages, raw files, PDFs, JPEGs of all kinds) into an archive, and
# proof that it can go.
#
#   sh museum.sh MASTERS ARCHIVE CHECK
#
# MASTERS and ARCHIVE may be buckets. CHECK is an empty folder for the proof, and may be removed afterwards.
set -eu
masters=$1 archive=$2 check=$3

# What would be saved, by format, and what would be kept as it is, and why. Nothing is written.
cnnbatch compress "$masters" "$archive" --dry-run

# Photographs of eight bits are coded so that no one sees a difference, and none falls below a score of 85; what cannot be
# coded without a loss that counts is kept losslessly. The second run takes only what is new or has changed.
cnnbatch compress "$masters" "$archive" --target-ssimulacra2 90 --min-ssimulacra2 85
cnnbatch compress "$masters" "$archive" --target-ssimulacra2 90 --min-ssimulacra2 85
cnnbatch info "$archive"

# Every checksum, every picture decoded, and each compared with its original.
cnnbatch verify "$archive" --source "$masters"

# Every file given back, under its name. What was kept losslessly is the same byte for byte.
cnnbatch reconstruct "$archive" "$check/back"
cnnbatch ls "$archive" --where "outcome = 'store'" > "$check/kept"
while IFS= read -r key; do cmp "$masters/$key" "$check/back/$key"; done < "$check/kept"
echo "$(wc -l < "$check/kept") files came back byte for byte; the others are pictures that were compared with their originals"
