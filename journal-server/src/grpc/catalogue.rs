//! The service `Catalogue`: which journals there are.

use proto::JournalName;
use proto::journal::{self as wire, catalogue_server};
use tonic::{Request, Response, Status};

use super::{Doorway, journal_info, status_of};
use crate::caller::Caller;
use crate::refusal::{self, Reason, Refusal};
use crate::rules::Action;
use crate::state::TrimPolicy;

#[derive(Clone)]
pub struct CatalogueService(pub Doorway);

#[tonic::async_trait]
impl catalogue_server::Catalogue for CatalogueService {
    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::CreateReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        let policy = match request.policy() {
            wire::TrimPolicy::Checkpointed => TrimPolicy::Checkpointed,
            wire::TrimPolicy::Free | wire::TrimPolicy::Unspecified => TrimPolicy::Free,
        };
        let name: JournalName = request.name.parse().map_err(invalid)?;
        self.0.open()?.allow(&extensions, Action::Administer, name.as_str())?;
        let created = self.0.open()?.groups.create(name.as_str(), policy, request.quota_bytes).await;
        let (id, record, created) = created.map_err(status_of)?;
        Ok(Response::new(wire::CreateReply { journal: Some(journal_info(id, Some(&record))), created }))
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::DeleteReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        self.0.open()?.allow(&extensions, Action::Administer, &request.name)?;
        let id = self.id_of(&request.name).await?;
        self.0.open()?.groups.delete(id).await.map_err(status_of)?;
        Ok(Response::new(wire::DeleteReply {}))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        let (_, extensions, _) = request.into_parts();
        let door = self.0.open()?;
        door.groups.caught_up().await?;
        let journals = door.groups.with_catalogue(|catalogue| catalogue.journals.clone());
        // What is left out was not refused: it is not counted among the denied.
        let caller = extensions.get::<Caller>().unwrap_or(&Caller::Anonymous);
        let visible = journals.iter().filter(|(_, record)| door.rules.decide_any(caller, &record.name).is_ok());
        let journals = visible.map(|(id, record)| journal_info(*id, Some(record))).collect();
        Ok(Response::new(wire::ListReply { journals }))
    }

    async fn set_quota(
        &self,
        request: Request<wire::SetQuotaRequest>,
    ) -> Result<Response<wire::SetQuotaReply>, Status> {
        let (_, extensions, request) = request.into_parts();
        self.0.open()?.allow(&extensions, Action::Administer, &request.name)?;
        let id = self.id_of(&request.name).await?;
        let record = self.0.open()?.groups.set_quota(id, request.quota_bytes).await.map_err(status_of)?;
        Ok(Response::new(wire::SetQuotaReply { journal: Some(journal_info(id, Some(&record))) }))
    }
}

impl CatalogueService {
    /// What the name stands for now.
    async fn id_of(&self, name: &str) -> Result<u64, Refusal> {
        let door = self.0.open()?;
        door.groups.caught_up().await?;
        let id = door.groups.with_catalogue(|catalogue| catalogue.by_name(name).map(|(id, _)| id));
        id.ok_or_else(|| refusal::no_such_journal(format!("named `{name}`")))
    }
}

fn invalid(error: proto::InvalidName) -> Refusal {
    Refusal::new(Reason::Invalid, error.to_string())
}
