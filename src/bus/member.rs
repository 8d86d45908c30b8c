//! Who belongs to the group, and who leads the services.
//!
//! Whether a node lives is not decided here: the Raft leader sees heartbeats and proposes elections. What is decided here is their
//! order: every election gets an epoch of its own, higher than all before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use super::command::{Member, Reply};
use super::wire::proto;

/// Most members, learners included. Part of the replicated arithmetic.
const MEMBERS_MAX: usize = 128;

/// Longest address or version, in bytes. Part of the replicated arithmetic.
const TEXT_BYTES_MAX: usize = 512;

/// Who leads the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicesLead {
    /// The member.
    pub node: u64,
    /// The log index of its election: the fencing token.
    pub epoch: u64,
}

/// The cluster as last applied on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Set once, by `FoundCluster`.
    pub cluster_id: Option<Uuid>,
    /// By id.
    pub members: BTreeMap<u64, Member>,
    /// Ids that were removed, never to be used again.
    pub removed: BTreeSet<u64>,
    /// Who leads the services, if anyone.
    pub services: Option<ServicesLead>,
    /// The newest epoch ever given; 0 if none.
    pub newest_epoch: u64,
}

/// The writer's side of a [`ClusterView`].
#[derive(Debug)]
pub(super) struct Cluster {
    view: ClusterView,
    changed: bool,
    shared: watch::Sender<Arc<ClusterView>>,
}

impl Cluster {
    /// Nobody yet; readers watch `shared`.
    pub fn new(shared: watch::Sender<Arc<ClusterView>>) -> Cluster {
        Cluster { view: ClusterView::default(), changed: false, shared }
    }

    /// `Command::FoundCluster`.
    pub fn found(&mut self, id: Uuid) -> Reply {
        match self.view.cluster_id {
            _ if id.is_nil() => Reply::Refused("the nil id is no cluster's id".into()),
            Some(old) if old != id => Reply::Refused(format!("this is cluster {old}, not {id}")),
            Some(_) => Reply::Done,
            None => {
                self.view.cluster_id = Some(id);
                self.changed = true;
                Reply::Done
            }
        }
    }

    /// `Command::SetMember`.
    pub fn set(&mut self, member: &Member) -> Reply {
        let id = member.id;
        let texts = [&member.http_address, &member.peer_address, &member.version];
        if id == 0 || texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
            return Reply::Refused(format!("a member has an id above 0, and addresses of at most {TEXT_BYTES_MAX} bytes"));
        }
        if self.view.removed.contains(&id) {
            return Reply::Refused(format!("node {id} was removed, and its id is never used again"));
        }
        match self.view.members.get(&id) {
            None if self.view.members.len() >= MEMBERS_MAX => {
                return Reply::Refused(format!("there may be {MEMBERS_MAX} members"));
            }
            Some(old) if old.incarnation > member.incarnation => {
                return Reply::Refused(format!("node {id} is already in incarnation {}", old.incarnation));
            }
            Some(old) if old == member => return Reply::Done,
            Some(old) if old.incarnation < member.incarnation => self.unseat(id),
            _ => {}
        }
        if !member.may_run_services {
            self.unseat(id);
        }
        self.view.members.insert(id, member.clone());
        self.changed = true;
        Reply::Done
    }

    /// `Command::RemoveMember`.
    pub fn remove(&mut self, id: u64) -> Reply {
        if id == 0 {
            return Reply::Refused("no member has the id 0".into());
        }
        self.view.members.remove(&id);
        self.changed |= self.view.removed.insert(id);
        self.unseat(id);
        Reply::Done
    }

    /// `Command::ElectServices`, applied at log index `index`.
    pub fn elect(&mut self, index: u64, node: u64, replaces: Option<u64>) -> Reply {
        let newest = self.view.newest_epoch;
        if replaces.is_some_and(|replaces| replaces != newest) {
            return Reply::Refused(format!("the newest epoch is {newest}"));
        }
        if newest >= index {
            return Reply::Refused("one batch elects once".into());
        }
        match self.view.members.get(&node) {
            None => Reply::Refused(format!("node {node} is no member")),
            Some(member) if !member.may_run_services => Reply::Refused(format!("node {node} may not run services")),
            Some(_) => {
                self.view.services = Some(ServicesLead { node, epoch: index });
                self.view.newest_epoch = index;
                self.changed = true;
                Reply::Elected(index)
            }
        }
    }

    /// `Command::ResignServices`.
    pub fn resign(&mut self, node: u64, epoch: u64) -> Reply {
        if self.view.services == Some(ServicesLead { node, epoch }) {
            self.unseat(node);
        }
        Reply::Done
    }

    /// Lets readers see what has changed since.
    pub fn tell(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.shared.send_replace(Arc::new(self.view.clone()));
        }
    }

    /// As a snapshot holds it.
    pub fn save(&self) -> proto::ClusterState {
        let (id_high, id_low) = self.view.cluster_id.map(|id| id.as_u64_pair()).unzip();
        proto::ClusterState {
            id_high,
            id_low,
            members: self.view.members.values().map(proto::Member::from).collect(),
            removed: self.view.removed.iter().copied().collect(),
            services_node: self.view.services.map_or(0, |lead| lead.node),
            services_epoch: self.view.services.map_or(0, |lead| lead.epoch),
            epoch: self.view.newest_epoch,
        }
    }

    /// Replaces all by what [`Cluster::save`] gave.
    pub fn load(&mut self, state: proto::ClusterState) {
        let cluster_id = state.id_high.zip(state.id_low).map(|(high, low)| Uuid::from_u64_pair(high, low));
        let lead = ServicesLead { node: state.services_node, epoch: state.services_epoch };
        self.view = ClusterView {
            cluster_id,
            members: state.members.into_iter().map(|member| (member.id, member.into())).collect(),
            removed: state.removed.into_iter().collect(),
            services: (lead.node != 0).then_some(lead),
            newest_epoch: state.epoch,
        };
        self.changed = true;
        self.tell();
    }

    fn unseat(&mut self, node: u64) {
        if self.view.services.is_some_and(|lead| lead.node == node) {
            self.view.services = None;
            self.changed = true;
        }
    }
}
