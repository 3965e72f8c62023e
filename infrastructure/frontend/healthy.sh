#!/bin/sh
# Good once this container has answered well for six seconds, and answers now: Docker believes the first good answer.
set -eu
noted=/tmp/first-good-answer
wget -q -O /dev/null http://127.0.0.1:8080/health
[ -e $noted ] || touch $noted
[ $(($(date +%s) - $(stat -c %Y $noted))) -ge 6 ]
