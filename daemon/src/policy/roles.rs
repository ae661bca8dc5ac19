//! Decides which administrative acts a user may ask for: pure functions over data. docs/roles.md
//! has the table for readers.

use super::authorise::Peer;

/// Part of a user in the administration of keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Sees keys, units and the state of the daemon.
    Viewer,
    /// Reads the audit trail.
    Auditor,
    /// Destroys deleted keys for good.
    Purger,
    /// Carries out the steps of plans.
    Agent,
    /// Keeps keys in service and takes them out of service.
    Operator,
    /// Makes keys, decides about their uses, and deletes them.
    Manager,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 6] =
        [Self::Viewer, Self::Operator, Self::Manager, Self::Auditor, Self::Purger, Self::Agent];

    /// The name of the role in the configuration, in messages and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Purger => "purger",
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Manager => "manager",
        }
    }

    /// The role with a name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Kind of administrative acts. Acts of one kind need the same roles.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Right {
    /// To see keys, units and the state of the daemon.
    View,
    /// To take keys out of service and back, and to renew them.
    Operate,
    /// To make keys, to change what they are for, and to delete them.
    Manage,
    /// To read the audit trail.
    Audit,
    /// To destroy deleted keys for good.
    Purge,
    /// To carry out the steps of plans.
    Step,
}

impl Right {
    /// Roles that have the right, the least powerful one first.
    pub const fn roles(self) -> &'static [Role] {
        match self {
            Self::View => &[Role::Viewer, Role::Auditor, Role::Purger, Role::Operator, Role::Manager],
            Self::Operate => &[Role::Operator, Role::Manager],
            Self::Manage => &[Role::Manager],
            Self::Audit => &[Role::Auditor],
            Self::Purge => &[Role::Purger],
            Self::Step => &[Role::Agent],
        }
    }
}

/// Roles of one user.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RoleSet {
    /// One bit for each role.
    bits: u8,
    /// True if manager and purger were taken out, because the user has both.
    is_separated: bool,
}

impl RoleSet {
    /// Every role, of a user whom the separation of roles does not concern.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// True if the user has no role.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// True if manager and purger do not count, because the user has both and the configuration
    /// separates them.
    pub fn is_separated(self) -> bool {
        self.is_separated
    }

    /// True if the user has a role.
    pub fn contains(self, role: Role) -> bool {
        self.bits & bit(role) != 0
    }

    /// Every role of the user.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }

    /// The least powerful role of the user that has a right. `None` if the user lacks the right.
    pub fn allowing(self, right: Right) -> Option<Role> {
        right.roles().iter().copied().find(|role| self.contains(*role))
    }

    /// True if the user has a right.
    pub fn allows(self, right: Right) -> bool {
        self.allowing(right).is_some()
    }

    fn has_both(self) -> bool {
        SEPARATED.into_iter().all(|role| self.contains(role))
    }
}

impl FromIterator<Role> for RoleSet {
    fn from_iter<T: IntoIterator<Item = Role>>(roles: T) -> Self {
        let bits = roles.into_iter().fold(0, |bits, role| bits | bit(role));
        Self { bits, is_separated: false }
    }
}

const fn bit(role: Role) -> u8 {
    1 << role as u8
}

/// Roles that one user must not have together if roles are separated.
const SEPARATED: [Role; 2] = [Role::Manager, Role::Purger];

/// All roles that the configuration gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roles {
    given: Vec<GivenRole>,
    separation: bool,
}

/// A role, and the users that have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GivenRole {
    /// The role.
    pub role: Role,
    /// Users that have the role.
    pub to: Holder,
}

/// Users that have a role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// The user with this id.
    User(u32),
    /// Processes with this group, as their own group or as a supplementary group.
    Group(u32),
}

impl Roles {
    /// Roles from a list. With `separation`, no user may be both manager and purger.
    pub fn new(given: Vec<GivenRole>, separation: bool) -> Self {
        Self { given, separation }
    }

    /// Every role with its users, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &GivenRole> {
        self.given.iter()
    }

    /// True if no user may be both manager and purger.
    pub fn separation(&self) -> bool {
        self.separation
    }

    /// Roles of a process. `is_manager` is true for root and for the user of the daemon, who are
    /// manager whatever the configuration says. `has_entry` is true for a user of the user
    /// database: roles by group do not count for others, such as the subordinate user ids of a
    /// member.
    pub fn of(&self, peer: &Peer, is_manager: bool, has_entry: bool) -> RoleSet {
        let counts = |to: Holder| to.is(peer) && (has_entry || matches!(to, Holder::User(_)));
        let given = self.given.iter().filter(|given| counts(given.to)).map(|given| given.role);
        let mut roles: RoleSet = given.chain(is_manager.then_some(Role::Manager)).collect();
        if self.separation && roles.has_both() {
            roles.bits = SEPARATED.into_iter().fold(roles.bits, |bits, role| bits & !bit(role));
            roles.is_separated = true;
        }
        roles
    }

    /// True if the user would get both separated roles together with another role.
    pub fn separates(&self, roles: RoleSet, more: Role) -> bool {
        self.separation && roles.iter().chain([more]).collect::<RoleSet>().has_both()
    }
}

impl Holder {
    fn is(self, peer: &Peer) -> bool {
        match self {
            Self::User(uid) => uid == peer.uid,
            Self::Group(gid) => gid == peer.gid || peer.groups.contains(&gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer { uid, gid, groups: groups.into(), ..Peer::default() }
    }

    fn roles(separation: bool) -> Roles {
        let given = [
            (Role::Viewer, Holder::User(1)),
            (Role::Auditor, Holder::User(1)),
            (Role::Operator, Holder::Group(20)),
            (Role::Manager, Holder::Group(30)),
            (Role::Purger, Holder::Group(40)),
        ];
        Roles::new(given.map(|(role, to)| GivenRole { role, to }).to_vec(), separation)
    }

    fn names(roles: RoleSet) -> Vec<&'static str> {
        roles.iter().map(Role::name).collect()
    }

    #[test]
    fn roles_of_users_and_of_all_their_groups_add_up() {
        let roles = roles(false);
        for (peer, expected) in [
            (peer(1, 1, &[]), &["viewer", "auditor"][..]),
            (peer(1, 1, &[5, 20]), &["viewer", "operator", "auditor"]),
            (peer(2, 20, &[]), &["operator"]),
            (peer(2, 30, &[40]), &["manager", "purger"]),
            (peer(2, 1, &[]), &[]),
            // The number of a user is not the number of a group.
            (peer(20, 1, &[]), &[]),
        ] {
            assert_eq!(names(roles.of(&peer, false, true)), expected, "{peer:?}");
        }
        assert_eq!(names(roles.of(&peer(0, 0, &[]), true, true)), ["manager"]);
        // A user without an entry in the user database has no role by group.
        assert_eq!(names(roles.of(&peer(1, 30, &[20]), false, false)), ["viewer", "auditor"]);
        assert!(roles.of(&peer(2, 30, &[20]), false, false).is_empty());
        assert_eq!(names(roles.of(&peer(1, 0, &[]), true, true)), ["viewer", "manager", "auditor"]);
    }

    #[test]
    fn manager_and_purger_together_count_as_neither() {
        let roles = roles(true);
        let both = roles.of(&peer(1, 30, &[40]), false, true);
        assert_eq!(names(both), ["viewer", "auditor"]);
        assert!(both.is_separated() && !both.allows(Right::Manage) && !both.allows(Right::Purge));
        assert!(roles.of(&peer(0, 0, &[40]), true, true).is_separated());
        for groups in [[30, 20], [40, 20]] {
            let one = roles.of(&peer(1, 1, &groups), false, true);
            assert!(!one.is_separated() && one.iter().count() == 4, "{one:?}");
        }
        assert!(roles.separates(roles.of(&peer(2, 30, &[]), false, true), Role::Purger));
        assert!(!roles.separates(roles.of(&peer(2, 30, &[]), false, true), Role::Operator));
    }

    #[test]
    fn the_least_powerful_role_allows() {
        let all = RoleSet::all();
        assert_eq!(all.allowing(Right::View), Some(Role::Viewer));
        assert_eq!(all.allowing(Right::Operate), Some(Role::Operator));
        let manager: RoleSet = [Role::Manager].into_iter().collect();
        assert_eq!(manager.allowing(Right::View), Some(Role::Manager));
        assert_eq!(manager.allowing(Right::Purge), None);
        let agent: RoleSet = [Role::Agent].into_iter().collect();
        assert!(agent.allows(Right::Step) && !agent.allows(Right::View) && !agent.is_empty());
        assert!(RoleSet::default().is_empty());
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        for role in Role::ALL {
            assert_eq!(Role::of_name(role.name()), Some(role));
        }
        assert_eq!(Role::of_name("root"), None);
    }
}
