#include "services/inference/http/local_upstream.h"

namespace palimpsest::inference {
namespace {

// Lives as long as its generation or the request, whose Leave takes it out of the generation.
class Reader final : public GenerationReader, public std::enable_shared_from_this<Reader> {
 public:
  explicit Reader(std::shared_ptr<Inbox::Feed> feed) : feed_(std::move(feed)) {}

  void Listen(std::shared_ptr<Generation> generation) override {
    feed_->LeaveBy([self = shared_from_this(), generation = std::move(generation)] {
      generation->Detach(self.get());
    });
  }
  bool Send(Update update, bool bounded) override { return feed_->Put(std::move(update), bounded); }
  void End(const absl::Status& status) override { feed_->End(status); }

 private:
  const std::shared_ptr<Inbox::Feed> feed_;
};

}  // namespace

absl::StatusOr<Upstream::Model> LocalUpstream::model() const {
  ASSIGN_OR_RETURN(const std::shared_ptr<Engine> engine, serving_.Loaded());
  return Model{engine->model().max_position, engine->version().value()};
}

absl::Status LocalUpstream::Generate(const v1::GenerateRequest& request, absl::Time deadline,
                                     const std::shared_ptr<Inbox::Feed>& feed) {
  return server_.Listen(request, deadline, std::make_shared<Reader>(feed));
}

}  // namespace palimpsest::inference
