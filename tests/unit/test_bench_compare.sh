#!/bin/bash
# SPDX-License-Identifier: MIT
#
# test_bench_compare.sh - the arithmetic and the page of tests/bench/compare, on results made by hand.
exec python3 "${SOURCE_ROOT:?root of the sources}/tests/bench/lib/check_figures.py"
