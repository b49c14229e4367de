#!/bin/sh
# Every new scene of a folder becomes a layer of roofs. As a line of a crontab:
#
#   */10 * * * * /opt/examples/cron.sh /data/scenes /data/roofs >> /var/log/roofs.log 2>&1
#
# What was done before is not done again, a scene that fails does not stop the others (exit code 3), a run that
# was killed goes on where it stopped, and two at once do each other no harm, so that no lock is needed. Cron
# mails what goes to standard error; with `-q` those are failures alone.
set -u
scenes=$1
roofs=$2
mkdir -p "$roofs"
# A scene that is only half copied fails, and is tried again the next time.
exec nice tilesegment predict "$scenes" -o "$roofs/" --max-memory 4GB -q --log-format json
