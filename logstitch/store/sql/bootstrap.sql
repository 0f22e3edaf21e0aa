-- The first organization.

-- name: lock_organizations
LOCK TABLE organizations IN SHARE ROW EXCLUSIVE MODE;
