#!/bin/sh
# Filters, derives and writes JSON lines with Miller: miller.sh IN OUT FIELDS
set -eu
exec mlr --ijsonl --ojsonl \
  filter 'is_int($delay) && $delay > 15' then \
  put '$weight = $delay * $distance' then \
  cut -o -f "$3" "$1" > "$2"
