#!/bin/sh
# Runs once, when the data volume is new: a database and a role for each service, and a role that reads them all.
set -eu

execute() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" "$@"; }

execute --dbname postgres --set password="$SALDO_VERIFY_PASSWORD" <<'SQL'
CREATE ROLE verify LOGIN PASSWORD :'password';
ALTER ROLE verify SET default_transaction_read_only = on;
SQL

for service in inventory orders channels payments fulfillment crm erp; do
  execute --dbname postgres --set name="$service" --set password="$SALDO_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"name" TO verify;
SQL
  execute --dbname "$service" --set name="$service" <<'SQL'
GRANT USAGE ON SCHEMA public TO verify;
ALTER DEFAULT PRIVILEGES FOR ROLE :"name" GRANT SELECT ON TABLES TO verify;
ALTER DEFAULT PRIVILEGES FOR ROLE :"name" GRANT SELECT ON SEQUENCES TO verify;
ALTER DEFAULT PRIVILEGES FOR ROLE :"name" GRANT USAGE ON SCHEMAS TO verify;
SQL
done
