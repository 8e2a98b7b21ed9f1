# Run once, by the image's entry point, when the volume is empty. Two databases with an owner each: the
# provider's ledger belongs to another company, and no role of ours may write to it.
for name in onceproof provider; do
  password_variable="$(echo "$name" | tr '[:lower:]' '[:upper:]')_PASSWORD"
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set name="$name" --set password="${!password_variable}" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
