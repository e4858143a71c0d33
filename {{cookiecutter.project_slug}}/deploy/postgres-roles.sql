-- Two roles for the database to which psql is connected: `{{ cookiecutter.project_slug }}-owner` runs `bff migrate` and
-- owns the tables, `{{ cookiecutter.project_slug }}` serves and can change no schema. Idempotent.
--
--     psql --file deploy/postgres-roles.sql   as a superuser, before the first `bff migrate`
--     psql --file deploy/postgres-roles.sql   again after it: narrows what the engine's tables allow
--
-- No password is in here. Set both: \password {{ cookiecutter.project_slug }}-owner, \password {{ cookiecutter.project_slug }}
\set ON_ERROR_STOP on
\if :{?app}
\else
    \set app {{ cookiecutter.project_slug }}
\endif
\set owner :app -owner

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY[:'app', :'owner']) AS name
WHERE name NOT IN (SELECT rolname FROM pg_roles)
\gexec

BEGIN;

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO :"app", :"owner";
GRANT USAGE ON SCHEMA public TO :"app";
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";

-- Your own tables, those of coming migrations too.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public
    GRANT USAGE ON SEQUENCES TO :"app";

-- The engine's tables and the versions of the schema, where they exist by now.
SELECT format('REVOKE ALL ON %I FROM %I; GRANT %s ON %1$I TO %2$I', name, :'app', rights)
FROM (
    VALUES
        ('bff_broadcast', 'SELECT, INSERT, UPDATE'),
        ('bff_audit', 'SELECT, INSERT, DELETE'),
        ('bff_alembic_version', 'SELECT'),
        ('alembic_version', 'SELECT')
) AS narrowed (name, rights)
WHERE to_regclass('public.' || name) IS NOT NULL
\gexec

COMMIT;
